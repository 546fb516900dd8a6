/*
 * Times of launches on the GPU, by kernel: while they are measured each is a command buffer of its own, whose start and end
 * Metal tells. A buffer's time has some microseconds of beginning and ending in it.
 */
#include <stdio.h>
#include <string.h>

#include "shim.h"

enum { MOST_KERNELS = 512 };

typedef struct {
  char kernel[PSI_KERNEL_NAME];
  u64 launches, timed;
  f64 seconds;
} LaunchTime;

static bool measuring;
static LaunchTime measured[MOST_KERNELS];
static int count;

bool psi_measures(void) { return measuring; }

void psi_keep_time(const char* kernel, id<MTLCommandBuffer> commands) {
  int i = 0;
  while (i < count && strcmp(measured[i].kernel, kernel) != 0) i++;
  if (i == MOST_KERNELS) return; /* more kernels than there are */
  if (i == count) snprintf(measured[count++].kernel, PSI_KERNEL_NAME, "%s", kernel);
  measured[i].launches++;
  const f64 begin = [commands GPUStartTime], end = [commands GPUEndTime];
  if (!(begin > 0 && end > begin)) return; /* not told */
  measured[i].timed++;
  measured[i].seconds += end - begin;
}

PSI_API i32 psi_measure_launches(i32 on) {
  PSI_TRY(psi_synchronize());
  measuring = on != 0;
  if (!measuring) return PSI_OK;
  memset(measured, 0, sizeof measured);
  count = 0;
  return PSI_OK;
}

PSI_API i32 psi_launch_times(void* out, i32 capacity) {
  if (!out || capacity < 1) return psi_fail(PSI_INVALID, "[psi_launch_times] expected room for a text, got %d bytes.", capacity);
  PSI_TRY(psi_synchronize());
  char* text = out;
  int used = 0;
  text[0] = 0;
  for (int i = 0; i < count; i++) {
    const LaunchTime* t = &measured[i];
    char seconds[32] = "-";
    if (t->timed == t->launches) snprintf(seconds, sizeof seconds, "%.9f", t->seconds);
    used += snprintf(text + used, (size_t)(capacity - used), "%s\t%llu\t%s\n", t->kernel, (unsigned long long)t->launches, seconds);
    if (used >= capacity) return psi_fail(PSI_INVALID, "[psi_launch_times] expected room for %d kernels, got %d bytes.", count, capacity);
  }
  return PSI_OK;
}
