#pragma once
/* A lane has at most 32 experts. */
enum { ROUTE_EXPERTS = 1024, BALANCE_TOKENS = 32 };
struct RouteParams {
  unsigned int tokens, experts, used, mode;
};
typedef struct RouteParams RouteParams;
