"""How much memory each stage with a model needs: arithmetic on a model's shape and the settings, without torch."""
