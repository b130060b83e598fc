/* SPDX-License-Identifier: GPL-2.0-only */
/* Operations of hmm-migrate-race. They return whether they had an effect. */
#ifndef HMM_MIGRATE_RACE_OPS_H
#define HMM_MIGRATE_RACE_OPS_H

#include "hmm_migrate_race_common.h"

bool op_to_device(struct worker *w);
bool op_to_system(struct worker *w);
bool op_cpu_write(struct worker *w);
bool op_cpu_read(struct worker *w);
bool op_far_write(struct worker *w);
bool op_far_read(struct worker *w);
bool op_near_write(struct worker *w);
bool op_fork_child(struct worker *w);
bool op_let_free(struct worker *w);
bool op_page_out(struct worker *w);
bool op_discard(struct worker *w);
bool op_remap(struct worker *w);
bool op_move(struct worker *w);
bool op_protect(struct worker *w);
bool op_write_same(struct worker *w);
bool op_compact(struct worker *w);
bool op_pin_short(struct worker *w);
bool op_splice_out(struct worker *w);
bool op_pin_long(struct worker *w);
bool op_unplug(struct worker *w);
bool op_exclusive(struct worker *w);
bool op_take_back(struct worker *w);

bool far_read_block(struct worker *w, unsigned int b);

#endif /* HMM_MIGRATE_RACE_OPS_H */
