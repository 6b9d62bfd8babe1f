"""`ppo-pipeline report`: a run as one HTML file that needs no network and no server."""
