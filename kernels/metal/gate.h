#pragma once
#include <metal_stdlib>
using namespace metal;
inline float sigmoid(float x) { return 1.0f / (1.0f + precise::exp(-x)); }
