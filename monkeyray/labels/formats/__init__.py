"""The formats of labels that are recognised, a module each."""
