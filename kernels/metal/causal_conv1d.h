#pragma once
enum { CONV_MOST_TAPS = 8 };
struct CausalConv1dParams {
  int tokens, x_stride, x_offset, channels, taps, sequences, slots;
};
typedef struct CausalConv1dParams CausalConv1dParams;
