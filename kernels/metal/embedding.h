#pragma once
struct EmbeddingParams {
  unsigned int width, groups;
  int vocabulary;
  float scale;
};
typedef struct EmbeddingParams EmbeddingParams;
