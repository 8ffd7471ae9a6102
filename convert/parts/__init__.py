"""Parts of a model, converted where the model calls them; the rest stays Python."""
