/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * Between lib/test_hmm_bench.c and tools/mm/hmm-bench.c, which are always used
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

/**
 * struct hmm_bench_row - what user space needs to know of a row
 * @row: index (in); the ioctl fails with ENOENT behind the last one
 * @order: of the folios that user space fills the area with
 * @content: HMM_BENCH_HOLES if it must not fill it at all
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
	__u32 counting;
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

struct hmm_bench_phase {
	char name[16];
	__u64 units;
	__u64 instructions;
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
