/*
 * Of the CUDA library, beside psionic.h: copies of rows that follow each other on the host and stand `stride` bytes apart on
 * the device, such as a page of a cache over all of its layers.
 */
#pragma once
#include "psionic.h"

/* Pinned memory of the host, until psi_host_free or psi_close; *address gets it (as a pointer). */
PSI_API i32 psi_host_alloc(void* address, f64 bytes);
PSI_API i32 psi_host_free(void* memory);
/* Begins a copy from pinned memory, which must stay as it is until psi_sent has been given the copy's ticket (f64). */
PSI_API i32 psi_send_rows(void* ticket, void* destination, f64 stride, const void* pinned_source, f64 row_bytes, i32 rows);
PSI_API i32 psi_sent(f64 ticket);
/* A copy to the host, there when this returns; rows of up to 4 MiB. */
PSI_API i32 psi_receive_rows(void* host_destination, const void* source, f64 stride, f64 row_bytes, i32 rows);
