// SPDX-License-Identifier: GPL-2.0-only
/* The table of operations, and the choice of one. */
#include "hmm_torture_ops.h"

/* Does the system support the operation? */
static bool is_due(const struct op *op)
{
	return op->needs == NOTHING || control->has[op->needs];
}

#define OP(name_, run_, weight_, ...)					\
	{ .name = name_, .run = run_, .weight = weight_, __VA_ARGS__ }

struct op ops[] = {
	OP("CPU read", op_cpu_read, 10),
	OP("CPU write", op_cpu_write, 10),
	OP("hammer", op_hammer, 6),
	OP("write for KSM", op_write_same, 3),
	OP("device read", op_device_read, 12),
	OP("device write", op_device_write, 12),
	OP("to device", op_to_device, 16),
	OP("to system", op_to_system, 4),
	OP("large whole", op_huge_to_device, 2, .needs = LARGE_FOLIOS),
	OP("large orders", op_orders_to_device, 2, .needs = LARGE_FOLIOS),
	OP("snapshot", op_snapshot, 2),
	OP("exclusive", op_exclusive, 3),
	OP("exclusive and back", op_take_back, 2),
	OP("fork", op_fork_child, 2),
	OP("MADV_DONTNEED", op_discard, 3),
	OP("MADV_FREE", op_let_free, 3),
	OP("advice", op_advise, 6),
	OP("collapse", op_collapse, 1, .needs = LUCK),
	OP("mlock", op_lock_memory, 1),
	OP("mmap", op_remap, 3),
	OP("region anew", op_renew, 1, .needs = LUCK),
	OP("mremap", op_move, 3),
	OP("mprotect", op_protect, 4),
	OP("punch", op_punch, 2),
	OP("truncate", op_truncate_file, 1),
	OP("read()", op_file_read, 2),
	OP("write()", op_file_write, 2),
	OP("direct out", op_direct_out, 2, .needs = DIRECT_IO),
	OP("direct in", op_direct_in, 2, .needs = DIRECT_IO),
	OP("pin", op_pin_short, 4, .needs = GUP_TEST),
	OP("long-term pin", op_pin_long, 2, .needs = GUP_TEST),
	OP("vmsplice", op_splice_out, 2),
	OP("other process", op_read_other, 2),
	OP("uffd-wp", op_write_protect, 3, .needs = USERFAULTFD),
	OP("inspect", op_inspect, 2),
};

const size_t nr_ops = ARRAY_SIZE(ops);

/* Does the name contain an item of the comma-separated list? */
static bool is_listed(const char *name, const char *list)
{
	char copy[256], *part, *next = copy;

	snprintf(copy, sizeof(copy), "%s", list);
	while ((part = strsep(&next, ",")))
		if (*part && strstr(name, part))
			return true;
	return false;
}

bool is_wanted(const char *name)
{
	return (!options.only || is_listed(name, options.only)) &&
	       !(options.without && is_listed(name, options.without));
}

/*
 * A statistic over random choices: fewer attempts say nothing, and the torture
 * goes on as long as an operation lacks an effect.
 */
#define FAIR_TRIES	100

bool op_lacks_effect(size_t i)
{
	return !ops[i].off && is_due(&ops[i]) && !control->done[i] &&
	       control->tried[i] >= FAIR_TRIES;
}

void choose_ops(void)
{
	for (size_t i = 0; i < nr_ops; i++)
		ops[i].off = !is_wanted(ops[i].name);
}

size_t pick_op(struct worker *w)
{
	unsigned int sum = 0, at;
	size_t i;

	for (i = 0; i < nr_ops; i++)
		sum += ops[i].off ? 0 : ops[i].weight;
	at = below(w, sum);
	for (i = 0; ops[i].off || at >= ops[i].weight; i++)
		at -= ops[i].off ? 0 : ops[i].weight;
	return i;
}
