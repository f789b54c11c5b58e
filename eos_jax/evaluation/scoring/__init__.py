"""How the field's benchmarks score answers, under the protocols in use.

`vqa` (VQAv2, TextVQA), `yes_no` (POPE, MME), `letters` (MMBench, MMStar, SEED,
ScienceQA, AI2D, RealWorldQA), `texts` (GQA, ChartQA, OCRBench, MM-Vet). Pure
functions of strings; where LLaVA's code and lmms-eval's differ there is one
function for each. All are checked against outputs of the original functions.
"""
