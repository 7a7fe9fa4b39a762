"""C2PA content credentials: a signed statement in the file, or beside it, of what made the picture and how.

Anyone can read them with any C2PA tool. Any program that re-encodes the picture drops them: that is what the watermark
is for. Needs the ``provenance`` extra (``c2pa-python`` and ``cryptography``); everything else works without it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from PIL import Image

from fewstep.provenance.identity import SIGNING_USES, Identity, missing
from fewstep.text import plain
from fewstep.version import __version__

CREATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's source type of a picture whose every pixel a trained model made."""
EDITED = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC's source type of a picture that a generative model changed, "such as with inpainting"."""
GENERATION = "org.fewstep.generation"
"""Label of the assertion that holds this program's own facts."""
ACTIONS, SOFT_BINDING = "c2pa.actions", "c2pa.soft-binding"
"""Labels of the assertions that tell what was done, and by what a picture is known again, begin so."""
OF_THE_FILE = ("assertion.dataHash.", "assertion.boxesHash.", "assertion.bmffHash.", "assertion.multiAssetHash.")
"""Codes of what is wrong between a statement and the bytes of a file, not with the statement, begin so."""
IDENTIFIER, FINGERPRINT = "org.fewstep.spread-spectrum.identifier.48", "org.fewstep.dct.256"
"""Algorithms of the two soft bindings: a number in the watermark, and a hash of the picture's coarse shapes."""
VISIBLE = "visible label: AI"
"""Description of the action that put the visible label on."""
MOST_PARENTS = 64
"""How far back a picture's states are read."""
MOST_SAID, MOST_PROMPT = 200, 1000
"""The most characters that are kept of a stranger's string."""
EMBEDDABLE = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif", "image/tiff"})
"""Formats that carry their credentials inside; all others need a ``.c2pa`` sidecar."""
CHANGED = ("mismatch", "missing", "multipleHardBindings", "malformed")
State = Literal["trusted", "valid", "tampered", "invalid", "absent", "unreadable", "unchecked"]
Task = Literal["text", "image", "inpaint"]


@dataclass(frozen=True)
class GenerationFacts:
    """Facts about how a picture was made."""

    model: str
    """Name of the student."""
    bundle_hash: str
    """Hash of the bundle, so that the very weights can be found again."""
    steps: int | None = None
    """Steps really taken: from a picture on, those that its strength left. None for a recording or a sheet of pictures, in
    which they change."""
    seed: int | None = None
    """The seed it was drawn from; None for a recording."""
    prompt: str | None = None
    """The prompt. It is written only where the caller says so: prompts are private by default."""
    task: Task | None = None
    """What drawing started from: text alone, a picture, or a picture of which one region was redrawn; None for a recording or a
    sheet of pictures."""
    strength: float | None = None
    """How far the given picture could be changed: the time drawing began at, in (0, 1]; None where there was none."""
    drawn_side: int | None = None
    """Pixels across as the model drew it, of a file that was enlarged afterwards; None for one that was not."""


@dataclass(frozen=True)
class Credentials:
    """What the credentials of a file say, and how far they can be believed."""

    state: State
    """``trusted``: intact, signer on the trust list. ``valid``: intact, signer not known. ``tampered``: the file was
    changed after signing. ``invalid``: something else is wrong with them. ``absent``: there are none. ``unreadable``: the
    file or its credentials are broken. ``unchecked``: c2pa-python is not installed."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What :class:`GenerationFacts` said, if fewstep wrote them; older ones know no task and no strength."""
    software: str | None = None
    """The program that made the picture, by its own account."""
    source_type: str | None = None
    """What that program did: `CREATED`, `EDITED`, or another of IPTC's digital source types."""
    signer: str | None = None
    """Common name of the signing certificate."""
    sidecar: bool = False
    """Whether they were read from a file beside the picture."""
    reasons: tuple[str, ...] = ()
    """C2PA's codes for what failed."""
    explanations: tuple[str, ...] = ()
    """The same in words."""
    edited_by: str | None = None
    """The program that altered the picture after `software` had made it, and signed it anew; None where nobody did."""
    made_intact: bool = True
    """Whether what `software` signed was intact when the picture was altered; True where nobody altered it."""
    when: str | None = None
    """When it was signed, ISO 8601, by a time stamp (RFC 3161) that holds; None where there is no such."""
    when_trusted: bool = False
    """Whether that clock's authority is on the trust list."""
    identifier: str | None = None
    """The value of its soft binding, by which a store finds these credentials when they were stripped."""

    @property
    def ai_generated(self) -> bool:
        """Whether they state that a trained model made the picture, or a part of it."""
        return self.source_type in (CREATED, EDITED)


@dataclass(frozen=True)
class Ingredient:
    """The picture that drawing began from, as a file: its credentials are kept in those of the result, its pixels are not."""

    data: bytes = field(repr=False)
    """The file's bytes."""
    mime: str
    """Its media type."""


@dataclass(frozen=True)
class Extras:
    """What goes into credentials beside the facts."""

    include_prompt: bool = False
    """Write the prompt."""
    given: Ingredient | None = None
    """The picture that drawing began from."""
    visible_mark: bool = False
    """Say that a visible label was put on."""
    bindings: tuple[tuple[str, str], ...] = ()
    """Soft bindings, by which the picture is known again without its credentials: algorithm and value."""
    time_authority: str | None = None
    """Address of a time-stamping authority (RFC 3161) that says when it was signed."""


PLAIN = Extras()


def prove(identity: Identity, time_authority: str | None = None) -> None:
    """Sign a picture of one pixel and read it back. Raises ValueError, with C2PA's words, for a chain that nobody would accept.

    The last certificate of the chain is trusted for it: that it leads to a root which others trust can't be known here.
    """
    pixel = io.BytesIO()
    Image.new("RGB", (1, 1)).save(pixel, "PNG")
    extra = Extras(time_authority=time_authority)
    signed, _ = signed_and_manifest(
        pixel.getvalue(), "image/png", GenerationFacts("trial", "0" * 64), identity, extra, embed=True
    )
    said = read(signed, "image/png", identity.chain_pem)
    if said.state not in ("trusted", "valid"):
        why = "; ".join(dict.fromkeys(said.explanations)) or said.state
        raise ValueError(
            f"what this certificate chain signs would be called {said.state} ({why}): a certificate for content credentials has "
            "the key usage digitalSignature, an authority key identifier and the extended key usage c2pa-kp-claimSigning, "
            "documentSigning or emailProtection"
        )
    if time_authority and not said.when:
        raise ValueError(
            f"the time stamp of {plain(time_authority, MOST_SAID)} does not hold: use another --time-authority"
        )


def sign(data: bytes, mime: str, facts: GenerationFacts, identity: Identity, include_prompt: bool = False) -> bytes:
    """Return ``data`` with credentials inside."""
    if mime not in EMBEDDABLE:
        raise ValueError(f"{mime} can't carry content credentials inside: write a .c2pa sidecar instead")
    return signed_and_manifest(data, mime, facts, identity, Extras(include_prompt), embed=True)[0]


def sign_beside(
    data: bytes, mime: str, facts: GenerationFacts, identity: Identity, include_prompt: bool = False
) -> bytes:
    """Return the content of a ``.c2pa`` sidecar for ``data``, which stays as it is."""
    return signed_and_manifest(data, mime, facts, identity, Extras(include_prompt), embed=False)[1]


def signed_and_manifest(
    data: bytes, mime: str, facts: GenerationFacts, identity: Identity, extra: Extras = PLAIN, embed: bool = True
) -> tuple[bytes, bytes]:
    """The file, with the credentials inside if they are to be embedded, and the credentials alone.

    Raises ValueError for a file or a chain that C2PA's library refuses, and a time authority that gives no time stamp.
    """
    import c2pa

    settings = {
        "builder": {"thumbnail": {"enabled": False}},
        "verify": {"verify_after_sign": False},
        "trust": {"trust_config": "\n".join(SIGNING_USES)},
    }
    algorithm = c2pa.C2paSigningAlg[identity.algorithm]
    clock = extra.time_authority.encode() if extra.time_authority else None
    info = c2pa.C2paSignerInfo(algorithm, identity.chain_pem, identity.key_pem, clock)
    manifest, output = manifest_of(facts, extra.include_prompt, extra), io.BytesIO()
    given = extra.given if manifest.get("ingredients") else None
    kept = manifest.pop("ingredients") if given else []
    if pictures := _pictures_in(given):
        manifest["redactions"] = pictures
        manifest["assertions"][0]["data"]["actions"] += [
            {"action": "c2pa.redacted", "reason": "c2pa.PII.present", "parameters": {"redacted": uri}}
            for uri in pictures
        ]
    try:
        builder = c2pa.Builder(json.dumps(manifest), c2pa.Context.from_dict(settings))
        if given:
            builder.add_ingredient(json.dumps(kept[0]), given.mime, io.BytesIO(given.data))
        if not embed:
            builder.set_no_embed()
        made = builder.sign(c2pa.Signer.from_info(info), mime, io.BytesIO(data), output)
    except c2pa.C2paError as error:
        if clock and "http" in str(error):
            raise ValueError(
                f"the time authority {plain(extra.time_authority, MOST_SAID)} gave no time stamp ({plain(error, MOST_SAID)}): "
                "check --time-authority and the network, or leave it out"
            ) from error
        raise ValueError(
            f"can't sign this {mime} ({plain(error, MOST_SAID)}): check the file and the certificate chain"
        ) from error
    return output.getvalue(), bytes(made)


def ingredient_of(data: bytes, mime: str) -> Ingredient | None:
    """The given picture as an ingredient; None if it has no credentials, or credentials that can't be read."""
    return Ingredient(data, mime) if read(data, mime).state in ("trusted", "valid", "tampered", "invalid") else None


def _pictures_in(given: Ingredient | None) -> list[str]:
    """Addresses of the thumbnails in the credentials of a given picture, which are pixels of it, or of what it was made from."""
    if given is None:
        return []
    import c2pa

    settings = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
    try:
        with c2pa.Reader(given.mime, io.BytesIO(given.data), context=c2pa.Context.from_dict(settings)) as reader:
            manifests = _table(_table(json.loads(reader.json())).get("manifests"))
    except (c2pa.C2paError, ValueError, RecursionError) as error:
        raise ValueError(f"can't read the credentials of the given picture ({plain(error, MOST_SAID)})") from error
    found = []
    for label, manifest in manifests.items():
        for one in (_table(manifest), *_rows(_table(manifest).get("ingredients"))):
            if address := str(_table(one.get("thumbnail")).get("identifier") or ""):
                found.append(f"self#jumbf=/c2pa/{label}/c2pa.assertions/{address.rpartition('/')[2]}")
    return list(dict.fromkeys(found))


def manifest_of(facts: GenerationFacts, include_prompt: bool = False, extra: Extras = PLAIN) -> dict[str, Any]:
    """The manifest to sign: what was done, in C2PA's own words, and one assertion with the facts.

    By C2PA's implementation guidance 2.4, what a model draws is created, and a picture that it was given is "inputTo" that
    (3.1.2, 3.3); one of which it drew a region anew is opened, and edited (5.2.2). The ingredient has a name alone, and its own
    credentials where it has some: the given picture may be private, and a hash would tell it.
    """
    agent = {"name": "fewstep", "version": __version__}
    created = {"action": "c2pa.created", "digitalSourceType": CREATED, "softwareAgent": agent}
    edited = {"action": "c2pa.edited", "digitalSourceType": EDITED, "softwareAgent": agent}
    given = {"parameters": {"ingredientIds": ["given"]}}
    made: dict[str, tuple[list[dict[str, Any]], str | None]] = {
        "image": ([created | given], "inputTo"),
        "inpaint": ([{"action": "c2pa.opened"} | given, edited], "parentOf"),
    }
    actions, relationship = made.get(facts.task or "text", ([created], None))
    if extra.visible_mark:
        actions.append({"action": "c2pa.edited", "softwareAgent": agent, "description": VISIBLE})
    if any(name == IDENTIFIER for name, _ in extra.bindings):
        actions.append({"action": "c2pa.watermarked.bound", "softwareAgent": agent})
    if facts.drawn_side:
        actions.append({"action": "c2pa.resized"})
    ingredient = {"label": "given", "title": "given picture", "relationship": relationship}
    said = asdict(facts)
    if not include_prompt:
        del said["prompt"]
    bound = [
        {"label": SOFT_BINDING, "data": {"alg": name, "blocks": [{"scope": {}, "value": value}]}}
        for name, value in extra.bindings
    ]
    return {
        "claim_generator_info": [agent],
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": actions}},
            {"label": GENERATION, "data": {name: value for name, value in said.items() if value is not None}},
            *bound,
        ],
        "ingredients": [ingredient] if relationship else [],
    }


def read(data: bytes, mime: str, anchors: bytes = b"", sidecar: bytes | None = None) -> Credentials:
    """Read and check the credentials in ``data``, or those in ``sidecar``; ``anchors`` are trusted roots in PEM.

    Nothing is fetched from the network: no remote manifests, no revocation lists. Every string of the result is
    :func:`~fewstep.text.plain` and bounded: whoever wrote the file may be a stranger.
    """
    if missing():
        return Credentials("unchecked")
    import c2pa

    settings: dict[str, Any] = {
        "verify": {"verify_trust": True, "remote_manifest_fetch": False, "ocsp_fetch": False},
        "trust": {"trust_config": "\n".join(SIGNING_USES)},
    }
    if anchors:
        settings["trust"]["trust_anchors"] = anchors.decode("ascii", "replace")
    try:
        context = c2pa.Context.from_dict(settings)
        reader = c2pa.Reader.try_create(mime, io.BytesIO(data), manifest_data=sidecar, context=context)
        if reader is None:
            return Credentials("absent")
        with reader:
            store, beside = json.loads(reader.json()), not reader.is_embedded()
    except c2pa.C2paError.NotSupported:
        return Credentials("absent")
    except (c2pa.C2paError, ValueError, RecursionError) as error:
        return Credentials("unreadable", reasons=(plain(error, MOST_SAID),))
    return _credentials(_table(store), beside)


def read_recovered(data: bytes, mime: str, manifest: bytes, anchors: bytes = b"") -> Credentials:
    """Check credentials from a store, for a file that lost its own: their signature is checked, that file's bytes are not.

    The state is ``trusted`` or ``valid`` where the statement is as it was signed. Whether it is about this picture is for
    what found it to say: since another program saved it, no byte can.
    """
    said = read(data, mime, anchors, sidecar=manifest)
    left = [code for code in said.reasons if not code.startswith(OF_THE_FILE)]
    if said.state in ("tampered", "invalid") and len(left) < len(said.reasons):
        state: State = "trusted" if not left else "valid" if left == ["signingCredential.untrusted"] else said.state
        return replace(said, state=state, reasons=tuple(left), explanations=(), sidecar=False)
    return said


def _credentials(store: dict[str, Any], beside: bool) -> Credentials:
    """Read a manifest store as c2pa reports it; a broken or foreign one may lack anything, and hold anything in its place."""
    manifest = _manifest(store, store.get("active_manifest"))
    results = _table(_table(store.get("validation_results")).get("activeManifest"))
    failures, passed = _rows(results.get("failure")), {one.get("code") for one in _rows(results.get("success"))}
    codes = tuple(plain(failure.get("code"), MOST_SAID) for failure in failures)
    judged: State = "invalid"
    if (state := store.get("validation_state")) in ("Trusted", "Valid"):
        judged = "trusted" if state == "Trusted" else "valid"
    elif any(word in code for code in codes for word in CHANGED):
        judged = "tampered"
    origin, intact = _origin(store, manifest)
    made, said, _ = _told(origin)
    signature = _table(manifest.get("signature_info"))
    return Credentials(
        state=judged,
        facts=said,
        software=(_agent(made.get("softwareAgent")) or _generator(origin)) if made else None,
        source_type=_said(made.get("digitalSourceType")),
        signer=_said(signature.get("common_name")),
        sidecar=beside,
        reasons=codes,
        explanations=tuple(plain(one.get("explanation") or one.get("code"), MOST_SAID) for one in failures),
        edited_by=None if origin is manifest else _editor(manifest),
        made_intact=intact,
        when=_said(signature.get("time")) if "timeStamp.validated" in passed else None,
        when_trusted="timeStamp.trusted" in passed,
        identifier=_told(manifest)[2],
    )


def _manifest(store: dict[str, Any], label: object) -> dict[str, Any]:
    return _table(_table(store.get("manifests")).get(str(label)))


def _told(manifest: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], str | None]:
    """Of one manifest: the action that made the picture, this program's own facts, and the value of the soft binding."""
    made: dict[str, Any] = {}
    said: dict[str, Any] = {}
    bound: str | None = None
    for assertion in _rows(manifest.get("assertions")):
        content, label = _table(assertion.get("data")), str(assertion.get("label"))
        if label == GENERATION:
            said = _facts(content)
        elif label.startswith(SOFT_BINDING):
            value = next((_said(block.get("value")) for block in _rows(content.get("blocks"))), None)
            bound = value if bound is None or content.get("alg") == IDENTIFIER else bound
        elif label.startswith(ACTIONS):
            for action in _rows(content.get("actions")):
                if action.get("action") == "c2pa.created" or action.get("digitalSourceType") in (CREATED, EDITED):
                    made = action
    return made, said, bound


def _origin(store: dict[str, Any], manifest: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The manifest of the picture's state that says who made it, along ``parentOf``; and whether all on the way were intact.

    An editor that opens a picture and signs it anew keeps the older manifest as an ingredient. One that says a model made the
    picture, or a part of it, counts more than the others: what came from a model stays so, whatever is done to it later.
    """
    broken = {
        str(delta.get("ingredientAssertionURI"))
        for delta in _rows(_table(store.get("validation_results")).get("ingredientDeltas"))
        if _serious(_table(delta.get("validationDeltas")))
    }
    chain = [(manifest, True)]
    seen, intact, here = {str(store.get("active_manifest"))}, True, str(store.get("active_manifest"))
    while len(chain) < MOST_PARENTS:
        parents = [one for one in _rows(chain[-1][0].get("ingredients")) if one.get("relationship") == "parentOf"]
        label = str(parents[0].get("active_manifest")) if parents else ""
        parent = _manifest(store, label)
        if not parent or label in seen:
            break
        noted = _table(_table(parents[0].get("validation_results")).get("activeManifest"))
        uri = f"self#jumbf=/c2pa/{here}/c2pa.assertions/{parents[0].get('label')}"
        intact = intact and uri not in broken and not _serious(noted)
        chain.append((parent, intact))
        seen.add(label)
        here = label
    telling = [(one, whole) for one, whole in chain if _told(one)[0]]
    models = [(one, whole) for one, whole in telling if _told(one)[0].get("digitalSourceType") in (CREATED, EDITED)]
    return next(iter((*models, *telling)), chain[0])


def _serious(results: dict[str, Any]) -> bool:
    """Whether something failed but that the signer is nobody who is known here."""
    return any(one.get("code") != "signingCredential.untrusted" for one in _rows(results.get("failure")))


def _generator(manifest: dict[str, Any]) -> str | None:
    """The program that made the claim, which stands for an action's own where that names none."""
    return next((name for one in _rows(manifest.get("claim_generator_info")) if (name := _agent(one))), None)


def _editor(manifest: dict[str, Any]) -> str:
    agents = [
        _agent(action.get("softwareAgent"))
        for assertion in _rows(manifest.get("assertions"))
        if str(assertion.get("label")).startswith(ACTIONS)
        for action in _rows(_table(assertion.get("data")).get("actions"))
    ]
    return next((name for name in agents if name), None) or _generator(manifest) or "another program"


def _table(value: Any) -> dict[str, Any]:
    """``value`` if it is a table, else an empty one."""
    return value if isinstance(value, dict) else {}


def _rows(value: Any) -> list[dict[str, Any]]:
    """The tables in a list; nothing for what is no list."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _said(value: Any) -> str | None:
    """A foreign string, made safe to show; None if it is no string."""
    return plain(value, MOST_SAID) if isinstance(value, str) and value else None


def _agent(value: Any) -> str | None:
    """The program that an action names: a table with a name and a version, or, in older manifests, one string."""
    named = value if isinstance(value, dict) else {"name": value}
    told = " ".join(part for part in (_said(named.get("name")), _said(named.get("version"))) if part)
    return plain(told, MOST_SAID) or None


def _facts(content: dict[str, Any]) -> dict[str, Any]:
    """Fewstep's own facts about a picture: short plain texts and numbers, and only the fields that this version knows."""
    known: dict[str, Any] = {}
    for one in fields(GenerationFacts):
        value = content.get(one.name)
        if isinstance(value, str):
            known[one.name] = plain(value, MOST_PROMPT if one.name == "prompt" else MOST_SAID)
        elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**64:
            known[one.name] = value
    return known
