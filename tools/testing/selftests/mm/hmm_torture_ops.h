/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Operations on tortured memory, which threads of a worker pick from a table.
 * An operation returns whether it had an effect. It holds no lock and keeps
 * nothing when it returns. It may be killed at any place.
 */
#ifndef HMM_TORTURE_OPS_H
#define HMM_TORTURE_OPS_H

#include "hmm_torture_common.h"

struct op {
	const char *name;
	bool (*run)(struct worker *w);
	unsigned int weight;
	unsigned int needs;
	bool off;
};

extern struct op ops[];
extern const size_t nr_ops;

void choose_ops(void);
size_t pick_op(struct worker *w);
bool op_lacks_effect(size_t i);

/* Is this name chosen by the options? */
bool is_wanted(const char *name);

int open_uffd(void);

bool op_cpu_read(struct worker *w);
bool op_cpu_write(struct worker *w);
bool op_hammer(struct worker *w);
bool op_write_same(struct worker *w);
bool op_device_read(struct worker *w);
bool op_device_write(struct worker *w);
bool op_to_device(struct worker *w);
bool op_to_system(struct worker *w);
bool op_huge_to_device(struct worker *w);
bool op_orders_to_device(struct worker *w);
bool op_snapshot(struct worker *w);
bool op_exclusive(struct worker *w);
bool op_take_back(struct worker *w);
bool op_fork_child(struct worker *w);
bool op_discard(struct worker *w);
bool op_let_free(struct worker *w);
bool op_advise(struct worker *w);
bool op_collapse(struct worker *w);
bool op_lock_memory(struct worker *w);
bool op_remap(struct worker *w);
bool op_renew(struct worker *w);
bool op_move(struct worker *w);
bool op_protect(struct worker *w);
bool op_punch(struct worker *w);
bool op_truncate_file(struct worker *w);
bool op_file_read(struct worker *w);
bool op_file_write(struct worker *w);
bool op_direct_out(struct worker *w);
bool op_direct_in(struct worker *w);
bool op_pin_short(struct worker *w);
bool op_pin_long(struct worker *w);
bool op_splice_out(struct worker *w);
bool op_read_other(struct worker *w);
bool op_write_protect(struct worker *w);
bool op_inspect(struct worker *w);

#endif /* HMM_TORTURE_OPS_H */
