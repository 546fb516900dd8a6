/* psi_sample: see sample.metal. */
#include "sample.h"

#include "launch.h"

PSI_API i32 psi_sample(void* ids, void* logprobs, void* logits, const void* records, const void* entries, const void* masks, void* scratch, i32 count, i32 rows,
                       i32 width, i32 entry_count, i32 mask_count, i32 all_greedy, f64 scratch_bytes) {
  PSI_TRY(PSI_CHECK_POINTERS("psi_sample", ids, logprobs, logits, records));
  if (count < 0 || count > 65535 || rows < 1 || width < 1)
    return psi_fail(PSI_INVALID, "[psi_sample] expected up to 65535 records, and logits, got %d records and %d x %d logits.", count, rows, width);
  if (width > SAMPLE_WIDEST) return psi_fail(PSI_UNSUPPORTED, "[psi_sample] expected rows of at most %d logits, got %d.", SAMPLE_WIDEST, width);
  if (entry_count < 0 || mask_count < 0 || (entry_count > 0 && !entries) || (mask_count > 0 && !masks))
    return psi_fail(PSI_INVALID, "[psi_sample] expected entries and masks where they are counted, got %d and %d.", entry_count, mask_count);
  if (count == 0) return PSI_OK;
  const f64 work_bytes = (f64)count * SAMPLE_WORK_BYTES, saved_bytes = 4.0 * entry_count;
  PSI_TRY(psi_check_scratch("psi_sample", scratch, scratch_bytes, work_bytes + saved_bytes));
  const f64 logits_bytes = 4.0 * rows * (f64)width, records_bytes = 80.0 * count, entries_bytes = 24.0 * entry_count;
  const f64 masks_bytes = 4.0 * mask_count * (f64)PSI_DIVIDE_UP(width, 32);
  void* saved = entry_count > 0 ? (char*)scratch + (i64)work_bytes : NULL;
  const SampleParams p = {rows, width, entry_count, mask_count, !all_greedy};
  const i64 pieces = PSI_DIVIDE_UP(width, SAMPLE_PIECE);
  PsiLaunch l = psi_kernel("sample", "sample_scan");
  psi_write(&l, 0, logits, logits_bytes);
  psi_read(&l, 1, records, records_bytes);
  psi_read(&l, 2, entry_count ? entries : NULL, entries_bytes);
  psi_read(&l, 3, mask_count ? masks : NULL, masks_bytes);
  psi_write(&l, 4, scratch, work_bytes);
  psi_write(&l, 5, saved, saved_bytes);
  psi_params(&l, 6, &p, sizeof p);
  PSI_TRY(psi_launch(&l, pieces, count, 1, SAMPLE_THREADS, 1, 1));
  const char* between[] = {"sample_count", "sample_list"};
  for (int i = 0; i < 2 && !all_greedy; i++) {
    l = psi_kernel("sample", between[i]);
    psi_read(&l, 0, logits, logits_bytes);
    psi_read(&l, 1, records, records_bytes);
    psi_read(&l, 2, mask_count ? masks : NULL, masks_bytes);
    psi_write(&l, 3, scratch, work_bytes);
    psi_params(&l, 4, &p, sizeof p);
    PSI_TRY(psi_launch(&l, pieces, count, 1, SAMPLE_THREADS, 1, 1));
  }
  l = psi_kernel("sample", "sample_finish");
  psi_write(&l, 0, ids, 4.0 * count);
  psi_write(&l, 1, logprobs, 4.0 * count);
  psi_write(&l, 2, logits, logits_bytes);
  psi_read(&l, 3, records, records_bytes);
  psi_read(&l, 4, entry_count ? entries : NULL, entries_bytes);
  psi_read(&l, 5, mask_count ? masks : NULL, masks_bytes);
  psi_write(&l, 6, scratch, work_bytes);
  psi_read(&l, 7, saved, saved_bytes);
  psi_params(&l, 8, &p, sizeof p);
  return psi_launch(&l, count, 1, 1, SAMPLE_THREADS, 1, 1);
}
