#pragma once
enum { LOG_SUM_THREADS = 256 };
struct LogSumExpParams {
  int width;
};
typedef struct LogSumExpParams LogSumExpParams;
