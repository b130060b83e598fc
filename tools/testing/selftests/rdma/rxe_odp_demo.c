// SPDX-License-Identifier: GPL-2.0-only
/*
 * What memory costs that is registered with RDMA: pinned, and on demand. Prints
 * a table. Times are instructions if the machine counts one a nanosecond.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "../kselftest.h"
#include "rxe_odp_common.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

#define MIB		(1UL << 20)
#define MESSAGE		65536UL
#define ROUNDS		8
#define SOME		(64 * MIB)

/**
 * struct figures - of one kind of registration
 * @registration: time to register memory that was never touched
 * @again: time to register it when all of it is present
 * @pinned: KiB of VmPin then
 * @rss: KiB of VmRSS, after the first registration
 * @per_mib: time to transfer a MiB in the steady state, for each operation
 * @swapped: pages of 64 MiB that go when the machine wants them
 * @right: the contents are right after that
 */
struct figures {
	double registration, again;
	long pinned, rss;
	double per_mib[NR_OPS];
	size_t swapped;
	bool right;
};

static struct device dev;
static size_t size = 1024 * MIB;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static size_t swapped(uint8_t *p, size_t length)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);
	uint64_t entry;
	size_t i, nr = 0;

	for (i = 0; i < length; i += PAGE)
		nr += pread(fd, &entry, 8, (uintptr_t)(p + i) / PAGE * 8) == 8 &&
		      entry >> 62 & 1;
	close(fd);
	return nr;
}

/* All messages at once, so that the queue pair is always busy */
static void send_all(struct pair *pair, enum op op, struct buffer *from,
		     struct buffer *to, unsigned int nr)
{
	struct ibv_wc wc;
	unsigned int i, want = op == OP_SEND ? 2 * nr : nr;

	for (i = 0; i < nr; i++) {
		struct buffer *local = op == OP_READ ? to : from;
		struct buffer *remote = op == OP_READ ? from : to;
		struct ibv_sge sge = { local->iova + i * MESSAGE, MESSAGE,
				       local->mr->lkey };
		struct ibv_send_wr *bad, wr = {
			.sg_list = &sge,
			.num_sge = 1,
			.opcode = op == OP_WRITE ? IBV_WR_RDMA_WRITE :
				  op == OP_READ ? IBV_WR_RDMA_READ :
						  IBV_WR_SEND,
			.send_flags = IBV_SEND_SIGNALED,
			.wr.rdma = { remote->iova + i * MESSAGE,
				     remote->mr->rkey },
		};

		if (op == OP_SEND && receive_into(pair, to, i * MESSAGE, MESSAGE))
			ksft_exit_fail_msg("post a receive\n");
		if (ibv_post_send(pair->qp[0], &wr, &bad))
			ksft_exit_fail_msg("post a send\n");
	}
	while (want) {
		int got = ibv_poll_cq(pair->cq, 1, &wc);

		if (got < 0 || (got && wc.status))
			ksft_exit_fail_msg("%s: status %d\n", op_name[op],
					   got < 0 ? got : (int)wc.status);
		want -= got;
		if (!got)
			sched_yield();
	}
}

/* After one round that makes everything present */
static double steady(struct pair *pair, enum op op, struct buffer *from,
		     struct buffer *to)
{
	const unsigned int nr = 32;
	double start;
	int i;

	send_all(pair, op, from, to, nr);
	start = now();
	for (i = 0; i < ROUNDS; i++)
		send_all(pair, op, from, to, nr);
	return (now() - start) / (ROUNDS * nr * MESSAGE / (double)MIB);
}

static void measure_traffic(struct figures *f, enum kind kind)
{
	struct options options = usual;
	struct buffer from, to;
	struct pair pair;
	enum op op;

	options.mtu = IBV_MTU_4096;
	pair_open(&pair, &dev, &options);
	buffer_open(&from, &dev, 4 * MIB, kind);
	buffer_open(&to, &dev, 4 * MIB, kind);
	fill(from.p, from.size, 1);
	for (op = 0; op < NR_OPS; op++)
		f->per_mib[op] = steady(&pair, op, &from, &to);
	buffer_close(&from);
	buffer_close(&to);
	pair_close(&pair);
}

/* The machine wants memory, then RDMA writes to it. */
static void measure_pressure(struct figures *f, enum kind kind)
{
	struct buffer from, to;
	struct pair pair;
	int i;

	pair_open(&pair, &dev, &usual);
	buffer_open(&from, &dev, 4 * MIB, PINNED);
	fill(from.p, from.size, 3);
	to.p = memory(SOME);
	to.size = SOME;
	madvise(to.p, SOME, MADV_NOHUGEPAGE);
	fill(to.p, SOME, 2);
	buffer_register(&to, &dev, kind);
	for (i = 0; i < 5; i++) {
		write_file("/proc/sys/vm/compact_memory", "1");
		madvise(to.p, SOME, MADV_PAGEOUT);
	}
	f->swapped = swapped(to.p, SOME);
	f->right = !transfer(&pair, OP_WRITE, &from, 1, &to, SOME / 2 + 1,
			     2 * MIB) &&
		   differs(to.p, 0, SOME / 2 + 1, 2, 0) < 0 &&
		   differs(to.p, SOME / 2 + 1, 2 * MIB, 3, 1) < 0 &&
		   differs(to.p, SOME / 2 + 1 + 2 * MIB,
			   SOME / 2 - 1 - 2 * MIB, 2,
			   SOME / 2 + 1 + 2 * MIB) < 0;
	buffer_close(&from);
	buffer_close(&to);
	pair_close(&pair);
}

static void measure(struct figures *f, enum kind kind)
{
	struct buffer buf;
	double start;

	buf.p = memory(size);
	buf.size = size;
	start = now();
	buffer_register(&buf, &dev, kind);
	f->registration = now() - start;
	f->rss = status_kib("VmRSS");
	f->pinned = status_kib("VmPin");
	ibv_dereg_mr(buf.mr);
	madvise(buf.p, size, MADV_POPULATE_WRITE);
	start = now();
	buffer_register(&buf, &dev, kind);
	f->again = now() - start;
	buffer_close(&buf);
	measure_traffic(f, kind);
	measure_pressure(f, kind);
}

static void row(const char *what, double pinned, double odp, const char *unit)
{
	printf("| %-44s | %14.0f | %14.0f | %-12s |", what, pinned, odp, unit);
	if (pinned > 0)
		printf(" %6.1f %% |\n", odp / pinned * 100);
	else
		printf("          |\n");
}

int main(int argc, char **argv)
{
	static struct figures pinned, odp;
	char what[64];
	enum op op;

	if (argc > 1)
		size = atol(argv[1]) * MIB;
	device_open(&dev);
	measure(&pinned, PINNED);
	measure(&odp, ODP);
	device_close(&dev);
	printf("| %-44s | %14s | %14s | %-12s | %8s |\n", "", "pinned",
	       "on demand", "", "");
	snprintf(what, sizeof(what), "register %zu MiB, never touched",
		 size / MIB);
	row(what, pinned.registration / 1e3, odp.registration / 1e3, "1000 instr.");
	row("the same, when all of it is present", pinned.again / 1e3,
	    odp.again / 1e3, "1000 instr.");
	row("VmPin after the first registration", pinned.pinned, odp.pinned,
	    "KiB");
	row("VmRSS after it", pinned.rss, odp.rss, "KiB");
	row("table of the region", size / PAGE * 16 / 1024,
	    size / PAGE * 16 / 1024, "KiB");
	for (op = 0; op < NR_OPS; op++) {
		snprintf(what, sizeof(what), "%s of 64 KiB, in the steady state",
			 op_name[op]);
		row(what, pinned.per_mib[op], odp.per_mib[op], "instr./MiB");
	}
	row("the machine wants 64 MiB: it gets", pinned.swapped * PAGE / MIB,
	    odp.swapped * PAGE / MIB, "MiB");
	printf("| %-44s | %14s | %14s | %-12s | %8s |\n",
	       "RDMA writes there: the data is",
	       pinned.right ? "right" : "WRONG", odp.right ? "right" : "WRONG",
	       "", "");
	return !pinned.right || !odp.right;
}
