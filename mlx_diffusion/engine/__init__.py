"""Requests to events: canvases denoised behind prefixes, with every rule and draw of randomness that this takes."""
