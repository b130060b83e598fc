/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Two queue pairs of one soft-RoCE device, joined to each other, and buffers
 * that both can reach. What is transferred depends on its position, and all of
 * it is compared.
 */
#ifndef RXE_ODP_COMMON_H
#define RXE_ODP_COMMON_H

#include <infiniband/verbs.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE		4096UL
#define HUGE_PAGE	(512 * PAGE)

#define ALL_ACCESS	(IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | \
			 IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC)

/* Of the kernel, unknown to older libraries */
#define FLUSH_ACCESS	(1 << 8 | 1 << 9)

enum op {
	OP_WRITE,
	OP_READ,
	OP_SEND,
	NR_OPS,
};

extern const char *const op_name[NR_OPS];

/**
 * struct device - an opened device
 * @context: of verbs
 * @pd: protection domain of everything
 * @gid_index: of the address that packets carry
 */
struct device {
	struct ibv_context *context;
	struct ibv_pd *pd;
	int gid_index;
};

/**
 * struct pair - two queue pairs that are joined
 * @cq: completion queue of both
 * @qp: the queue pairs; [0] asks, [1] responds
 * @srq: shared receive queue of [1], if any
 */
struct pair {
	struct ibv_cq *cq;
	struct ibv_qp *qp[2];
	struct ibv_srq *srq;
};

/**
 * struct options - of a pair
 * @mtu: bytes a packet
 * @timeout: transport timeout, 4 us << timeout
 * @retries: number of retries after a timeout
 * @with_srq: the responder has a shared receive queue
 */
struct options {
	enum ibv_mtu mtu;
	unsigned int timeout;
	unsigned int retries;
	bool with_srq;
};

extern const struct options usual;

/**
 * struct buffer - memory of this process and its registration
 * @p: address
 * @size: number of bytes
 * @iova: address by which verbs know @p
 * @mr: region
 */
struct buffer {
	uint8_t *p;
	size_t size;
	uint64_t iova;
	struct ibv_mr *mr;
};

/* Registration with on-demand paging, or pinned. */
enum kind {
	PINNED = 0,
	ODP = IBV_ACCESS_ON_DEMAND,
};

void device_open(struct device *dev);
void device_close(struct device *dev);

void pair_open(struct pair *pair, struct device *dev,
	       const struct options *options);
void pair_close(struct pair *pair);

uint8_t *memory(size_t size);
void buffer_open(struct buffer *buf, struct device *dev, size_t size,
		 enum kind kind);
void buffer_register(struct buffer *buf, struct device *dev, enum kind kind);
void buffer_close(struct buffer *buf);

void fill(uint8_t *p, size_t size, unsigned int seed);
long differs(const uint8_t *p, size_t from, size_t size, unsigned int seed,
	     size_t position);

/* Return a status of a completion, or -1 if there is none. */
int post_and_wait(struct pair *pair, struct ibv_send_wr *wr);
int transfer(struct pair *pair, enum op op, struct buffer *from, size_t from_at,
	     struct buffer *to, size_t to_at, size_t size);
int receive_into(struct pair *pair, struct buffer *to, size_t at, size_t size);
int wait_for(struct pair *pair, unsigned int completions);
int fetch_add(struct pair *pair, struct buffer *buf, size_t at, uint64_t add,
	      struct buffer *old);
int compare_swap(struct pair *pair, struct buffer *buf, size_t at,
		 uint64_t compare, uint64_t swap, struct buffer *old);

/* @type and @level are those of enum ib_placement_type and so on. */
int flush(struct pair *pair, struct buffer *buf, size_t at, size_t size,
	  unsigned int type, unsigned int level);
int atomic_write(struct pair *pair, struct buffer *buf, size_t at,
		 uint64_t value);
int fetch_add_anywhere(struct pair *pair, struct buffer *buf, size_t at,
		       uint64_t add, struct buffer *old);

/* Prefetch by the system call: not every provider has ibv_advise_mr(). */
int advise(struct device *dev, unsigned int advice, unsigned int flags,
	   struct ibv_sge *sge, unsigned int nr);

long status_kib(const char *field);
void write_file(const char *name, const char *text);

#endif /* RXE_ODP_COMMON_H */
