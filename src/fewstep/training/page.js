for (const slider of document.querySelectorAll(".slider")) {
    const control = slider.querySelector(".control"), range = control.querySelector("input"), told = control.querySelector("output");
    const frames = [...slider.querySelectorAll("figure")];
    const show = () => {
        frames.forEach((frame, i) => { frame.hidden = i !== +range.value; });
        told.textContent = frames[+range.value].textContent.replace("step ", "").replace(", the best", " (best)");
        range.setAttribute("aria-valuetext", frames[+range.value].textContent);
    };
    control.hidden = false;
    range.addEventListener("input", show);
    show();
}
for (const button of document.querySelectorAll(".command button")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
        const text = button.parentElement.querySelector("pre");
        try {
            await navigator.clipboard.writeText(text.textContent);
            button.textContent = "Copied";
        } catch {
            getSelection().selectAllChildren(text);
            button.textContent = "Selected: now copy";
        }
    });
}
