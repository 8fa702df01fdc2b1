"""One file per codec family; codecs compose through `Then` and never import each other."""
