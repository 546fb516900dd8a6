/* What training on several devices asks of the CUDA library beside the group itself (psionic.h): sums that run beside other work. */
#pragma once
#include "psionic.h"

/* psi_all_reduce beside what is called after it, once what was called before it is done; recorded like other calls. */
PSI_API i32 psi_all_reduce_start(void* data, i32 dtype, f64 count);
/* What is called after it waits for all sums that were started. */
PSI_API i32 psi_all_reduce_join(void);
