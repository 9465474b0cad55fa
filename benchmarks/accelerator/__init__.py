"""Measures this project on the GPU or TPU at hand, within minutes.

benchmarks/accelerator.sh --out=results
benchmarks/accelerator.sh --smoke --out=results

Parts, in order of importance: speed against PyTorch, the roofline of each layer, the input
pipeline, peak memory, and a training of ISBI. Each runs in a process of its own under its own time
limit; what did not fit into `--minutes` is named. OUT gets `results.json`, `results.md`, which are
written after each part, and `log.txt`. Nothing is downloaded. ISBI 2012 is read from
`$UNET_DATA/isbi` if it is there; otherwise stacks are generated. `--smoke` runs all parts at tiny
sizes, on a CPU too.
"""
