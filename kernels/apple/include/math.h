#pragma once
#ifdef __cplusplus
extern "C" {
#endif
#define PSI_REAL(name) double name(double); float name##f(float);
#define PSI_REAL2(name) double name(double, double); float name##f(float, float);
PSI_REAL(sqrt)
PSI_REAL(exp)
PSI_REAL(exp2)
PSI_REAL(expm1)
PSI_REAL(log)
PSI_REAL(log2)
PSI_REAL(log10)
PSI_REAL(log1p)
PSI_REAL(sin)
PSI_REAL(cos)
PSI_REAL(tan)
PSI_REAL(tanh)
PSI_REAL(fabs)
PSI_REAL(floor)
PSI_REAL(ceil)
PSI_REAL(trunc)
PSI_REAL(round)
PSI_REAL(rint)
PSI_REAL(nearbyint)
PSI_REAL2(pow)
PSI_REAL2(fmod)
PSI_REAL2(fmax)
PSI_REAL2(fmin)
PSI_REAL2(copysign)
double fma(double, double, double);
float fmaf(float, float, float);
double ldexp(double, int);
float ldexpf(float, int);
int ilogb(double);
int ilogbf(float);
double frexp(double, int*);
float frexpf(float, int*);
long lrintf(float);
long lrint(double);
long lroundf(float);
long lround(double);
#undef PSI_REAL
#undef PSI_REAL2
#ifdef __cplusplus
}
#endif
#define HUGE_VAL __builtin_huge_val()
#define HUGE_VALF __builtin_huge_valf()
#define INFINITY HUGE_VALF
#define NAN __builtin_nanf("0x7fc00000")
#define M_PI 3.14159265358979323846
#define isnan(x) __builtin_isnan(x)
#define isinf(x) __builtin_isinf(x)
#define isfinite(x) __builtin_isfinite(x)
#define signbit(x) __builtin_signbit(x)
