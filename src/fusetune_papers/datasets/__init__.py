"""Published data sets as tables, made of the folders of their publishers."""
