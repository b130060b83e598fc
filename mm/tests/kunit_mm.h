/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _MM_TESTS_KUNIT_MM_H
#define _MM_TESTS_KUNIT_MM_H

#include <kunit/test.h>
#include <linux/completion.h>
#include <linux/mm.h>

struct file;

/**
 * struct kunit_mm - address space of a test
 * @test: the test; the address space ends with it
 * @mm: address space of the thread that runs the test
 * @cursor: address of the next mapping
 */
struct kunit_mm {
	struct kunit *test;
	struct mm_struct *mm;
	unsigned long cursor;
};

/**
 * struct kunit_mm_thread - another thread of the process
 * @km: address space
 * @addr: address that @work uses
 * @work: function that the thread runs
 * @ret: return value of @work, valid after @done
 * @page: for the test
 * @stop: asks @work to return
 * @task: the thread
 * @done: completed when the thread has left the address space
 */
struct kunit_mm_thread {
	struct kunit_mm *km;
	unsigned long addr;
	int (*work)(struct kunit_mm_thread *thread);
	int ret;
	struct page *page;
	bool stop;
	struct task_struct *task;
	struct completion done;
};

struct kunit_mm *kunit_mm_create(struct kunit *test);
int kunit_mm_fork(struct kunit_mm *km, unsigned long addr,
		  struct mm_struct **child);
void kunit_mm_exit(struct kunit_mm *km, struct mm_struct *child);
struct mm_struct *kunit_mm_enter(struct kunit_mm *km, struct mm_struct *mm);
void kunit_mm_thread_start(struct kunit_mm_thread *thread, struct kunit_mm *km,
			   unsigned long addr,
			   int (*work)(struct kunit_mm_thread *thread));
void kunit_mm_thread_end(struct kunit_mm_thread *thread);

unsigned long kunit_mm_map(struct kunit_mm *km, unsigned long nr,
			   unsigned long prot);
unsigned long kunit_mm_map_huge(struct kunit_mm *km, unsigned long nr);
unsigned long kunit_mm_map_file(struct kunit_mm *km, struct file *file,
				unsigned long nr, unsigned long prot,
				unsigned long flags);
unsigned long kunit_mm_map_fixed(struct kunit_mm *km, unsigned long addr,
				 unsigned long nr, unsigned long prot);

#ifdef CONFIG_HUGETLB_PAGE
unsigned long kunit_mm_map_hugetlb(struct kunit_mm *km, unsigned long nr);
#else
static inline unsigned long kunit_mm_map_hugetlb(struct kunit_mm *km,
						 unsigned long nr)
{
	kunit_skip(km->test, "no hugetlb pages in this kernel");
	return 0;
}
#endif

void kunit_mm_read(struct kunit_mm *km, unsigned long addr, unsigned long nr);
int kunit_mm_try_read(unsigned long addr);
void kunit_mm_write(struct kunit_mm *km, unsigned long addr, unsigned long nr);
void kunit_mm_zap(struct kunit_mm *km, unsigned long addr, unsigned long nr);
void kunit_mm_flags(struct kunit_mm *km, unsigned long addr, vm_flags_t set,
		    vm_flags_t clear);
void kunit_mm_protect(struct kunit_mm *km, unsigned long addr,
		      unsigned long nr, unsigned long vm_flags);

int kunit_mm_put_word(unsigned long addr, unsigned long i, unsigned long word);
unsigned long kunit_mm_get_word(struct kunit_mm *km, unsigned long addr,
				unsigned long i);
void kunit_mm_hint(struct kunit_mm *km, unsigned long addr, unsigned long nr);
void kunit_mm_make_read_only(struct kunit_mm *km, unsigned long addr,
			     unsigned long nr);
void kunit_mm_uffd_wp(struct kunit_mm *km, unsigned long addr,
		      unsigned long nr, bool enable);

bool kunit_mm_is_young(struct folio *folio);
void kunit_mm_make_old(struct folio *folio);

pte_t kunit_mm_pte(struct kunit_mm *km, unsigned long addr);
pmd_t kunit_mm_pmd(struct kunit_mm *km, unsigned long addr);
unsigned long kunit_mm_pfn(struct kunit_mm *km, unsigned long addr);

void kunit_mm_plant(struct kunit_mm *km, unsigned long addr, pte_t pte);
void kunit_mm_change(struct kunit_mm *km, unsigned long addr,
		     unsigned long nr, pte_t (*change)(pte_t pte));
void kunit_mm_split_pmd(struct kunit_mm *km, unsigned long addr);

struct file *kunit_mm_file(struct kunit *test,
			   const struct file_operations *fops, void *data);
struct file *kunit_mm_keep_file(struct kunit *test, struct file *file);
struct file *kunit_mm_shmem(struct kunit *test, unsigned long nr);

#endif /* _MM_TESTS_KUNIT_MM_H */
