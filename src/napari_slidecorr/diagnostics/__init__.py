"""Has a model learnt the tissue, or the slide? Measures on features of patches whose slide and class are known. No torch.

Every measure is a `Measure`: a value with an interval over slides and what it was measured on, or no value and the reason.
"""
