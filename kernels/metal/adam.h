#pragma once
struct AdamParams {
  unsigned int count;
  float beta1, beta2, eps, decay;
  unsigned int decoupled;
};
struct SgdParams {
  unsigned int count;
  float momentum, decay;
};
struct MuonParams {
  unsigned int count;
  float scale_high, scale_low, decay_high, decay_low, eps;
};
typedef struct AdamParams AdamParams;
typedef struct SgdParams SgdParams;
typedef struct MuonParams MuonParams;
