/* tanh for vectors (namespace psi::PSI_ISA). */
#pragma once
#include "simd.h"

namespace psi::PSI_ISA {

/* tanh x to about 2 ulp: an odd polynomial (Cephes' tanhf) below 0.625, else 1 - 2 / (e^2|x| + 1) with the sign of x. */
PSI_INLINE vf tanh(vf x) {
  const vf size = abs(x), square = x * x;
  vf p = set1(-5.70498872745e-3f);
  p = fma(p, square, set1(2.06390887954e-2f));
  p = fma(p, square, set1(-5.37397155531e-2f));
  p = fma(p, square, set1(1.33314422036e-1f));
  p = fma(p, square, set1(-3.33332819422e-1f));
  const vf near = fma(p * square, x, x);
  const vf far = set1(1.0f) - set1(2.0f) / (exp(size + size) + set1(1.0f));
  return select(lt(size, set1(0.625f)), near, select(lt(x, zero()), zero() - far, far));
}

}  // namespace psi::PSI_ISA
