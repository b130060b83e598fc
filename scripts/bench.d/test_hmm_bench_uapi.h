/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * Between test_hmm_bench.c and hmm-bench.c, which are always used
 * as a pair: nothing here is stable.
 */
#ifndef _LIB_TEST_HMM_BENCH_UAPI_H
#define _LIB_TEST_HMM_BENCH_UAPI_H

#include <linux/ioctl.h>
#include <linux/types.h>

enum hmm_bench_event {
	HMM_BENCH_TLB_FLUSH,
	HMM_BENCH_RMAP_WALK,
	HMM_BENCH_LRU_LOCK,
	HMM_BENCH_LRU_DRAIN,
	HMM_BENCH_PTE_TABLE,
	HMM_BENCH_FAULT,
	HMM_BENCH_NR_EVENTS
};

enum hmm_bench_content {
	HMM_BENCH_HOLES,
	HMM_BENCH_SYSTEM,
	HMM_BENCH_DEVICE,
};

/* Kinds of the pages of an area: those at even and those at odd indices. */
enum hmm_bench_layout {
	HMM_BENCH_UNIFORM,		/* as the content says */
	HMM_BENCH_ZERO,			/* zero pages: each was read once */
	HMM_BENCH_ZERO_HOLES,		/* zero pages, holes */
	HMM_BENCH_ZERO_PRESENT,		/* zero pages, written */
	HMM_BENCH_HOLES_PRESENT,	/* holes, written */
	HMM_BENCH_FORKED,		/* written, and shared with a child */
	HMM_BENCH_SCATTERED,		/* written, pfns in no order */
	HMM_BENCH_STRIPES,		/* written, in a VMA each: writable, not */
	HMM_BENCH_HINTED,		/* written, then hinted for NUMA */
	HMM_BENCH_NR_LAYOUTS
};

/**
 * struct hmm_bench_row - what user space needs to know of a row
 * @row: index (in); the ioctl fails with ENOENT behind the last one
 * @order: of the folios that user space fills the area with
 * @content: HMM_BENCH_HOLES if it must not fill it at all
 * @layout: how it fills it
 * @pad: zero
 * @counting: the module counts events, and no instructions
 * @area_size: bytes
 * @touch_step: zero, or the work is a read of one byte each so many bytes, by
 *	user space, in place of HMM_BENCH_WORK
 * @name: of the row
 */
struct hmm_bench_row {
	__u32 row;
	__u32 order;
	__u32 content;
	__u32 layout;
	__u32 counting;
	__u32 pad;
	__u64 area_size;
	__u64 touch_step;
	char name[32];
};

/**
 * struct hmm_bench_start - put an area at the row's disposal
 * @row: index
 * @pad: zero
 * @addr: of the area, in the calling process
 */
struct hmm_bench_start {
	__u32 row;
	__u32 pad;
	__u64 addr;
};

/**
 * struct hmm_bench_phase - the figures of a phase
 * @name: of the phase
 * @units: of work, base pages mostly
 * @instructions: in all windows
 * @calls: of hmm_range_fault() until all of the area was served; else zero
 * @events: in all windows, if these are counted
 */
struct hmm_bench_phase {
	char name[16];
	__u64 units;
	__u64 instructions;
	__u64 calls;
	__u64 events[HMM_BENCH_NR_EVENTS];
};

#define HMM_BENCH_MAX_PHASES	3

/**
 * struct hmm_bench_finish - the figures of a row
 * @touch_ticks: time of all reads of user space, where there is a touch_step
 * @phases: those in use have a name
 */
struct hmm_bench_finish {
	__u64 touch_ticks;
	struct hmm_bench_phase phases[HMM_BENCH_MAX_PHASES];
};

#define HMM_BENCH_ROW		_IOWR('H', 0x40, struct hmm_bench_row)
#define HMM_BENCH_START		_IOW('H', 0x41, struct hmm_bench_start)
#define HMM_BENCH_WORK		_IO('H', 0x42)
#define HMM_BENCH_FINISH	_IOWR('H', 0x43, struct hmm_bench_finish)

#endif
