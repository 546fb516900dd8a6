#pragma once
struct CrossEntropyParams {
  unsigned int first, count, vocabulary, starts, ends; /* columns first .. first + count; whether they are the first, the last */
  float softcap;
};
typedef struct CrossEntropyParams CrossEntropyParams;
