"""The studio page in real browsers, one file a behaviour. Pictures of it land in out/screens/."""
