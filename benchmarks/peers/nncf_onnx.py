"""NNCF's post-training quantization of an ONNX file, in a venv of its own: nncf_onnx.py FLOAT.onnx SAMPLES.npy INT8.onnx."""

import sys

import nncf
import numpy as np
import onnx

model, samples = onnx.load(sys.argv[1]), np.load(sys.argv[2])
name = next(i.name for i in model.graph.input if i.name not in {c.name for c in model.graph.initializer})
dataset = nncf.Dataset([samples[i : i + 1] for i in range(len(samples))], lambda sample: {name: sample})
onnx.save(nncf.quantize(model, dataset, subset_size=len(samples)), sys.argv[3])
