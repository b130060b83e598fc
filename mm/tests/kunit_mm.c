// SPDX-License-Identifier: GPL-2.0-only
/*
 * An address space for a KUnit test, and the means to put into it what a test
 * wants to find there.
 *
 * What this file owns
 *
 *   An mm that the thread of the test uses like a process does: it maps files
 *   and anonymous memory and touches them. Mappings lie at fixed addresses, a
 *   PMD apart, so that no layout of the architecture has a say in a result.
 *
 *   Entries that are hard to come by are planted: written into an empty PTE
 *   under the page-table lock. There is no reference behind them, so they have
 *   to go before the page tables do. Hence the mm outlives the test's thread:
 *   it is put by a deferred action, and planted entries are cleared by later
 *   ones, which run earlier.
 *
 * Failing
 *
 *   Every function here either does what it is called for or ends the test by
 *   a failed assertion. None does so with a lock held.
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/hugetlb.h>
#include <linux/ioport.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/rmap.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/shmem_fs.h>
#include <linux/uaccess.h>

#include <asm/tlb.h>

#include "../internal.h"
#include "kunit_mm.h"

/* Low enough for every architecture, and the begin of a PUD on most. */
#define KUNIT_MM_FIRST		SZ_1G

/*
 * The thread of the test drops its address space when it exits, but KUnit goes
 * on as soon as the exit begins. Be the last user, so that all pages are free
 * when this returns and the next test does not count them.
 */
static void kunit_mm_put(void *data)
{
	struct mm_struct *mm = data;

	while (atomic_read(&mm->mm_users) > 1)
		schedule_timeout_uninterruptible(1);
	mmput(mm);
}

/* Drop the reference of kthread_use_mm(), too. */
static void kunit_mm_release(void *data)
{
	struct mm_struct *mm = data;

	kunit_mm_put(mm);
	mmdrop(mm);
}

/**
 * kunit_mm_create() - give the thread of a test an address space
 * @test: test that runs in the current thread
 *
 * The address space ends with the test.
 *
 * Return: the address space; never NULL.
 */
struct kunit_mm *kunit_mm_create(struct kunit *test)
{
	struct kunit_mm *km = kunit_kzalloc(test, sizeof(*km), GFP_KERNEL);
	struct mm_struct *mm;
	int ret;

	KUNIT_ASSERT_NOT_NULL(test, km);
	KUNIT_ASSERT_NULL(test, current->mm);
	mm = mm_alloc();
	KUNIT_ASSERT_NOT_NULL(test, mm);
	mm->task_size = TASK_SIZE;
	arch_pick_mmap_layout(mm, &current->signal->rlim[RLIMIT_STACK]);

	/* One user is the thread, which puts it when it ends; the other we. */
	mmget(mm);
	kthread_use_mm(mm);
	ret = kunit_add_action_or_reset(test, kunit_mm_release, mm);
	KUNIT_ASSERT_EQ(test, ret, 0);

	km->test = test;
	km->mm = mm;
	km->cursor = KUNIT_MM_FIRST;
	return km;
}

/* Into the empty @mm, as fork() would: the mapping first, then its pages. */
static int kunit_mm_copy_vma(struct mm_struct *mm, struct vm_area_struct *from)
{
	struct vm_area_struct *vma;
	int ret;

	vma_start_write(from);
	vma = vm_area_dup(from);
	if (!vma)
		return -ENOMEM;
	vma->vm_mm = mm;
	vma->anon_vma = NULL;
	ret = insert_vm_struct(mm, vma);
	if (ret) {
		vm_area_free(vma);
		return ret;
	}
	ret = anon_vma_fork(vma, from);
	return ret ? ret : copy_page_range(vma, from);
}

/**
 * kunit_mm_fork() - a child's address space with one mapping of its parent
 * @km: address space of the parent
 * @addr: an address in an anonymous mapping
 * @child: receives the child's address space, also on errors of the copy
 *
 * The child ends by kunit_mm_exit(), or with the test.
 *
 * Return: what the copy of the page tables said, 0 or an error.
 */
int kunit_mm_fork(struct kunit_mm *km, unsigned long addr,
		  struct mm_struct **child)
{
	struct mm_struct *mm = mm_alloc();
	struct vm_area_struct *vma;
	int ret;

	KUNIT_ASSERT_NOT_NULL(km->test, mm);
	mm->task_size = TASK_SIZE;
	arch_pick_mmap_layout(mm, &current->signal->rlim[RLIMIT_STACK]);
#ifdef CONFIG_MEMCG
	/* It may outlive this thread, which would not tell it. */
	RCU_INIT_POINTER(mm->owner, NULL);
#endif
	ret = kunit_add_action_or_reset(km->test, kunit_mm_put, mm);
	KUNIT_ASSERT_EQ(km->test, ret, 0);
	*child = mm;

	mmap_write_lock(km->mm);
	mmap_write_lock_nested(mm, SINGLE_DEPTH_NESTING);
	vma = vma_lookup(km->mm, addr);
	ret = vma ? kunit_mm_copy_vma(mm, vma) : -EFAULT;
	flush_tlb_mm(km->mm);
	mmap_write_unlock(mm);
	mmap_write_unlock(km->mm);
	return ret;
}

/**
 * kunit_mm_exit() - end of a child's address space
 * @km: address space of the parent
 * @child: from kunit_mm_fork(); not the one that the thread is in
 */
void kunit_mm_exit(struct kunit_mm *km, struct mm_struct *child)
{
	kunit_release_action(km->test, kunit_mm_put, child);
}

/**
 * kunit_mm_enter() - go on in another address space
 * @km: what is done by way of this is done to @mm from now on
 * @mm: where to, a child or the parent again
 *
 * Return: the address space that was left.
 */
struct mm_struct *kunit_mm_enter(struct kunit_mm *km, struct mm_struct *mm)
{
	struct mm_struct *left = km->mm;

	/*
	 * The thread puts the one that it is in when it ends. The reference of
	 * kthread_use_mm() stays with the one that was created, and is not to
	 * be the last while it is on its way.
	 */
	mmget(mm);
	mmgrab(left);
	kthread_unuse_mm(left);
	kthread_use_mm(mm);
	mmdrop(mm);
	km->mm = mm;
	mmput(left);
	return left;
}

static int kunit_mm_thread_main(void *data)
{
	struct kunit_mm_thread *thread = data;
	struct mm_struct *mm = thread->km->mm;

	kthread_use_mm(mm);
	thread->ret = thread->work(thread);
	kthread_unuse_mm(mm);
	complete_all(&thread->done);
	return 0;
}

/**
 * kunit_mm_thread_start() - let another thread of the process work
 * @thread: state, which stays until the thread is done
 * @km: address space, the thread's from now on until it is done
 * @addr: for @work
 * @work: runs in the address space
 */
void kunit_mm_thread_start(struct kunit_mm_thread *thread, struct kunit_mm *km,
			   unsigned long addr,
			   int (*work)(struct kunit_mm_thread *thread))
{
	thread->km = km;
	thread->addr = addr;
	thread->work = work;
	thread->stop = false;
	init_completion(&thread->done);
	thread->task = kthread_run(kunit_mm_thread_main, thread, "kunit_mm");
	KUNIT_ASSERT_FALSE(km->test, IS_ERR(thread->task));
}

/* Ask a thread to stop, and wait until it has. */
void kunit_mm_thread_end(struct kunit_mm_thread *thread)
{
	WRITE_ONCE(thread->stop, true);
	wait_for_completion(&thread->done);
}

static void kunit_mm_advise(struct kunit_mm *km, unsigned long addr,
			    unsigned long nr, int advice)
{
	int ret = do_madvise(km->mm, addr, nr << PAGE_SHIFT, advice);

	KUNIT_ASSERT_EQ(km->test, ret, 0);
}

static unsigned long kunit_mm_place(struct kunit_mm *km, unsigned long nr)
{
	unsigned long addr = km->cursor;

	km->cursor += ALIGN(nr << PAGE_SHIFT, PMD_SIZE) + PMD_SIZE;
	return addr;
}

/**
 * kunit_mm_map_file() - map a file
 * @km: address space of the current thread
 * @file: what to map, from its beginning; NULL for anonymous memory
 * @nr: number of pages
 * @prot: PROT_READ and so on
 * @flags: MAP_SHARED or MAP_PRIVATE
 *
 * Return: address, PMD aligned.
 */
unsigned long kunit_mm_map_file(struct kunit_mm *km, struct file *file,
				unsigned long nr, unsigned long prot,
				unsigned long flags)
{
	unsigned long addr = kunit_mm_place(km, nr);
	unsigned long ret = vm_mmap(file, addr, nr << PAGE_SHIFT, prot,
				    flags | MAP_FIXED, 0);

	KUNIT_ASSERT_EQ(km->test, ret, addr);
	return addr;
}

/**
 * kunit_mm_map_fixed() - map anonymous memory that base pages are used for
 * @km: address space of the current thread
 * @addr: where (bytes, page aligned)
 * @nr: number of pages
 * @prot: PROT_READ and so on
 *
 * Return: @addr.
 */
unsigned long kunit_mm_map_fixed(struct kunit_mm *km, unsigned long addr,
				 unsigned long nr, unsigned long prot)
{
	unsigned long ret = vm_mmap(NULL, addr, nr << PAGE_SHIFT, prot,
				    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, 0);

	KUNIT_ASSERT_EQ(km->test, ret, addr);
	if (IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE))
		kunit_mm_advise(km, addr, nr, MADV_NOHUGEPAGE);
	return addr;
}

/**
 * kunit_mm_map() - map anonymous memory that base pages are used for
 * @km: address space of the current thread
 * @nr: number of pages
 * @prot: PROT_READ and so on
 *
 * Return: address, PMD aligned.
 */
unsigned long kunit_mm_map(struct kunit_mm *km, unsigned long nr,
			   unsigned long prot)
{
	return kunit_mm_map_fixed(km, kunit_mm_place(km, nr), nr, prot);
}

/**
 * kunit_mm_map_huge() - map anonymous memory that huge pages are used for
 * @km: address space of the current thread
 * @nr: number of base pages
 *
 * Skips the test where there are no transparent huge pages.
 *
 * Return: address, PMD aligned.
 */
unsigned long kunit_mm_map_huge(struct kunit_mm *km, unsigned long nr)
{
	unsigned long addr;

	if (!IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE) ||
	    !has_transparent_hugepage())
		kunit_skip(km->test, "needs transparent huge pages");
	addr = kunit_mm_map_file(km, NULL, nr, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS);
	kunit_mm_advise(km, addr, nr, MADV_HUGEPAGE);
	return addr;
}

/**
 * kunit_mm_read() - read a byte of each page
 * @km: address space of the current thread
 * @addr: first page
 * @nr: number of pages
 */
void kunit_mm_read(struct kunit_mm *km, unsigned long addr, unsigned long nr)
{
	const void __user *p = (const void __user *)addr;
	unsigned char byte;

	for (; nr--; p += PAGE_SIZE)
		KUNIT_ASSERT_EQ(km->test, 0, copy_from_user(&byte, p, 1));
}

/**
 * kunit_mm_try_read() - read a byte where that may fail
 * @addr: address in the current thread's address space
 *
 * Return: 0 or -EFAULT.
 */
int kunit_mm_try_read(unsigned long addr)
{
	unsigned char byte;

	if (copy_from_user(&byte, (const void __user *)addr, 1))
		return -EFAULT;
	return 0;
}

/**
 * kunit_mm_write() - write the number of the page into each page
 * @km: address space of the current thread
 * @addr: first page
 * @nr: number of pages
 */
void kunit_mm_write(struct kunit_mm *km, unsigned long addr, unsigned long nr)
{
	for (; nr--; addr += PAGE_SIZE)
		KUNIT_ASSERT_EQ(km->test, 0,
				put_user(addr >> PAGE_SHIFT,
					 (unsigned long __user *)addr));
}

/**
 * kunit_mm_flags() - set and clear flags of a mapping
 * @km: address space
 * @addr: an address in the mapping
 * @set: flags to be set
 * @clear: flags to be cleared
 */
void kunit_mm_flags(struct kunit_mm *km, unsigned long addr, vm_flags_t set,
		    vm_flags_t clear)
{
	struct vm_area_struct *vma;

	mmap_write_lock(km->mm);
	vma = vma_lookup(km->mm, addr);
	if (vma)
		vm_flags_mod(vma, set, clear);
	mmap_write_unlock(km->mm);
	KUNIT_ASSERT_NOT_NULL(km->test, vma);
}

/**
 * kunit_mm_zap() - take pages away, as MADV_DONTNEED does
 * @km: address space
 * @addr: first page
 * @nr: number of pages
 */
void kunit_mm_zap(struct kunit_mm *km, unsigned long addr, unsigned long nr)
{
	kunit_mm_advise(km, addr, nr, MADV_DONTNEED);
}

/**
 * kunit_mm_protect() - give part of a VMA other permissions
 * @km: address space
 * @addr: first page
 * @nr: number of pages
 * @vm_flags: VM_READ and VM_WRITE, as wanted
 */
void kunit_mm_protect(struct kunit_mm *km, unsigned long addr,
		      unsigned long nr, unsigned long vm_flags)
{
	unsigned long end = addr + (nr << PAGE_SHIFT);
	struct vm_area_struct *vma, *prev = NULL;
	struct vma_iterator vmi;
	struct mmu_gather tlb;
	int ret = -ENOMEM;

	mmap_write_lock(km->mm);
	vma_iter_init(&vmi, km->mm, addr);
	vma = vma_find(&vmi, end);
	if (vma) {
		prev = vma_prev(&vmi);
		if (addr > vma->vm_start)
			prev = vma;
		vma_find(&vmi, end);
		tlb_gather_mmu(&tlb, km->mm);
		ret = mprotect_fixup(&vmi, &tlb, vma, &prev, addr, end,
				     (vma->vm_flags & ~VM_ACCESS_FLAGS) |
				     vm_flags);
		tlb_finish_mmu(&tlb);
	}
	mmap_write_unlock(km->mm);
	KUNIT_ASSERT_EQ(km->test, ret, 0);
}

/**
 * kunit_mm_pmd() - value of an entry of the PMD level
 * @km: address space
 * @addr: address that it maps
 *
 * Return: the entry; an empty one if there is no such table.
 */
pmd_t kunit_mm_pmd(struct kunit_mm *km, unsigned long addr)
{
	pmd_t *pmdp = mm_find_pmd(km->mm, addr);

	return pmdp ? pmdp_get_lockless(pmdp) : __pmd(0);
}

/**
 * kunit_mm_pte() - value of a PTE
 * @km: address space
 * @addr: address that it maps
 *
 * Return: the PTE; an empty one if there is no such table.
 */
pte_t kunit_mm_pte(struct kunit_mm *km, unsigned long addr)
{
	pmd_t *pmdp = mm_find_pmd(km->mm, addr);
	pte_t *ptep = pmdp ? pte_offset_map(pmdp, addr) : NULL;
	pte_t pte = __pte(0);

	if (ptep) {
		pte = ptep_get(ptep);
		pte_unmap(ptep);
	}
	return pte;
}

/**
 * kunit_mm_pfn() - pfn of a present page
 * @km: address space
 * @addr: its address
 *
 * Return: the pfn.
 */
unsigned long kunit_mm_pfn(struct kunit_mm *km, unsigned long addr)
{
	pmd_t pmd = kunit_mm_pmd(km, addr);
	pte_t pte;

	if (pmd_present(pmd) && pmd_leaf(pmd))
		return pmd_pfn(pmd) + ((addr & ~PMD_MASK) >> PAGE_SHIFT);
	pte = kunit_mm_pte(km, addr);
	KUNIT_ASSERT_TRUE(km->test, pte_present(pte));
	return pte_pfn(pte);
}

struct kunit_mm_planted {
	struct mm_struct *mm;
	unsigned long addr;
};

static void kunit_mm_uproot(void *data)
{
	struct kunit_mm_planted *planted = data;
	struct mm_struct *mm = planted->mm;
	pte_t *ptep;
	spinlock_t *ptl;	/* of the table that @ptep is in */

	mmap_read_lock(mm);
	ptep = get_locked_pte(mm, planted->addr, &ptl);
	if (ptep) {
		if (!pte_present(ptep_get(ptep)))
			pte_clear(mm, planted->addr, ptep);
		pte_unmap_unlock(ptep, ptl);
	}
	mmap_read_unlock(mm);
}

/**
 * kunit_mm_plant() - write an entry that is not present into an empty PTE
 * @km: address space
 * @addr: address that the PTE maps
 * @pte: the entry
 *
 * It is cleared again at the end of the test.
 */
void kunit_mm_plant(struct kunit_mm *km, unsigned long addr, pte_t pte)
{
	struct kunit_mm_planted *planted;
	bool empty = false;
	pte_t *ptep;
	spinlock_t *ptl;	/* of the table that @ptep is in */
	int ret;

	KUNIT_ASSERT_FALSE(km->test, pte_present(pte));
	planted = kunit_kzalloc(km->test, sizeof(*planted), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(km->test, planted);
	planted->mm = km->mm;
	planted->addr = addr;
	ret = kunit_add_action_or_reset(km->test, kunit_mm_uproot, planted);
	KUNIT_ASSERT_EQ(km->test, ret, 0);

	mmap_read_lock(km->mm);
	ptep = get_locked_pte(km->mm, addr, &ptl);
	if (ptep) {
		empty = pte_none(ptep_get(ptep));
		if (empty)
			set_pte_at(km->mm, addr, ptep, pte);
		pte_unmap_unlock(ptep, ptl);
	}
	mmap_read_unlock(km->mm);
	KUNIT_ASSERT_TRUE(km->test, empty);
}

/**
 * kunit_mm_change() - change PTEs that are not empty in place
 * @km: address space
 * @addr: first page; the pages lie in one page table
 * @nr: number of pages
 * @change: gives the new value of an entry
 */
void kunit_mm_change(struct kunit_mm *km, unsigned long addr,
		     unsigned long nr, pte_t (*change)(pte_t pte))
{
	struct vm_area_struct *vma;
	unsigned long changed = 0;
	pte_t *start, *ptep, old;
	spinlock_t *ptl;	/* of the table that @start is in */

	mmap_read_lock(km->mm);
	vma = vma_lookup(km->mm, addr);
	start = vma ? get_locked_pte(km->mm, addr, &ptl) : NULL;
	if (start) {
		for (ptep = start; changed < nr; changed++, ptep++) {
			if (pte_none(ptep_get(ptep)))
				break;
			old = ptep_modify_prot_start(vma, addr, ptep);
			ptep_modify_prot_commit(vma, addr, ptep, old,
						change(old));
			addr += PAGE_SIZE;
		}
		flush_tlb_mm(km->mm);
		pte_unmap_unlock(start, ptl);
	}
	mmap_read_unlock(km->mm);
	KUNIT_ASSERT_EQ(km->test, changed, nr);
}

/**
 * kunit_mm_split_pmd() - map a huge page by PTEs
 * @km: address space
 * @addr: an address in it
 *
 * khugepaged is told not to undo that.
 */
void kunit_mm_split_pmd(struct kunit_mm *km, unsigned long addr)
{
	struct vm_area_struct *vma;

	kunit_mm_advise(km, addr & PMD_MASK, PTRS_PER_PTE, MADV_NOHUGEPAGE);
	mmap_read_lock(km->mm);
	vma = vma_lookup(km->mm, addr);
	if (vma)
		split_huge_pmd_address(vma, addr, false, NULL);
	mmap_read_unlock(km->mm);
	KUNIT_ASSERT_FALSE(km->test, pmd_leaf(kunit_mm_pmd(km, addr)));
}

static void kunit_mm_fput(void *data)
{
	fput(data);
}

/**
 * kunit_mm_keep_file() - put a file at the end of a test
 * @test: the test
 * @file: the file, with a reference; or an error, which fails the test
 *
 * Return: @file.
 */
struct file *kunit_mm_keep_file(struct kunit *test, struct file *file)
{
	int ret;

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, file);
	ret = kunit_add_action_or_reset(test, kunit_mm_fput, file);
	KUNIT_ASSERT_EQ(test, ret, 0);
	return file;
}

/**
 * kunit_mm_file() - a file with operations of the test's own
 * @test: test, at whose end the file is put
 * @fops: its operations
 * @data: its private data
 *
 * Return: the file.
 */
struct file *kunit_mm_file(struct kunit *test,
			   const struct file_operations *fops, void *data)
{
	return kunit_mm_keep_file(test, anon_inode_getfile("[kunit_mm]", fops,
							   data, O_RDWR));
}

/**
 * kunit_mm_shmem() - a file in shared memory
 * @test: test, at whose end the file is put
 * @nr: size in pages
 *
 * Return: the file.
 */
struct file *kunit_mm_shmem(struct kunit *test, unsigned long nr)
{
	return kunit_mm_keep_file(test, shmem_file_setup("kunit_mm",
							 nr << PAGE_SHIFT, 0));
}

#ifdef CONFIG_HUGETLB_PAGE
static void kunit_mm_reset_overcommit(void *data)
{
	default_hstate.nr_overcommit_huge_pages = (unsigned long)data;
}

/* The pool may be empty: let the pages be allocated when they are needed. */
static void kunit_mm_overcommit(struct kunit *test, unsigned long nr)
{
	unsigned long was = default_hstate.nr_overcommit_huge_pages;
	int ret;

	default_hstate.nr_overcommit_huge_pages = was + nr;
	ret = kunit_add_action_or_reset(test, kunit_mm_reset_overcommit,
					(void *)was);
	KUNIT_ASSERT_EQ(test, ret, 0);
}

/**
 * kunit_mm_map_hugetlb() - map hugetlb pages of the default size
 * @km: address space of the current thread
 * @nr: number of hugetlb pages
 *
 * Return: address.
 */
unsigned long kunit_mm_map_hugetlb(struct kunit_mm *km, unsigned long nr)
{
	struct file *file;

	kunit_mm_overcommit(km->test, nr);
	file = hugetlb_file_setup(HUGETLB_ANON_FILE,
				  nr * huge_page_size(&default_hstate),
				  VM_NORESERVE, HUGETLB_ANONHUGE_INODE,
				  huge_page_shift(&default_hstate));
	kunit_mm_keep_file(km->test, file);
	return kunit_mm_map_file(km, file,
				 nr * pages_per_huge_page(&default_hstate),
				 PROT_READ | PROT_WRITE, MAP_SHARED);
}
#endif

static void kunit_mm_release_region(void *data)
{
	struct resource *res = data;

	release_mem_region(res->start, resource_size(res));
}

/**
 * kunit_mm_region() - a range of physical addresses without memory
 * @test: test, at whose end it is given back
 * @size: bytes, a multiple of a sub-section
 *
 * Return: first address.
 */
phys_addr_t kunit_mm_region(struct kunit *test, unsigned long size)
{
	struct resource *res;
	int ret;

	res = request_free_mem_region(&iomem_resource, size, "kunit_mm");
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, res);
	ret = kunit_add_action_or_reset(test, kunit_mm_release_region, res);
	KUNIT_ASSERT_EQ(test, ret, 0);
	return res->start;
}

static void kunit_mm_unmap_pages(void *data)
{
	memunmap_pages(data);
}

static struct dev_pagemap *
kunit_mm_memremap(struct kunit *test, enum memory_type type, phys_addr_t start,
		  unsigned long size, const struct dev_pagemap_ops *ops,
		  void *owner)
{
	struct dev_pagemap *pgmap;
	void *addr;
	int ret;

	pgmap = kunit_kzalloc(test, sizeof(*pgmap), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, pgmap);
	pgmap->type = type;
	pgmap->range.start = start;
	pgmap->range.end = start + size - 1;
	pgmap->nr_range = 1;
	pgmap->ops = ops;
	pgmap->owner = owner;
	addr = memremap_pages(pgmap, numa_mem_id());
	KUNIT_ASSERT_FALSE(test, IS_ERR(addr));
	ret = kunit_add_action_or_reset(test, kunit_mm_unmap_pages, pgmap);
	KUNIT_ASSERT_EQ(test, ret, 0);
	return pgmap;
}

/**
 * kunit_mm_pagemap() - device-private pages
 * @test: test, at whose end they go; they have to be free by then
 * @start: first address, in a region of kunit_mm_region()
 * @size: bytes, a multiple of a sub-section
 * @ops: operations of the pagemap
 * @owner: its owner
 *
 * To be called before kunit_mm_create() if pages get into the address space
 * with references, since what is made last ends first.
 *
 * Return: the pagemap.
 */
struct dev_pagemap *kunit_mm_pagemap(struct kunit *test, phys_addr_t start,
				     unsigned long size,
				     const struct dev_pagemap_ops *ops,
				     void *owner)
{
	return kunit_mm_memremap(test, MEMORY_DEVICE_PRIVATE, start, size, ops,
				 owner);
}

static int kunit_mm_found(struct resource *res, void *data)
{
	phys_addr_t *start = data;

	*start = ALIGN(res->start, SUBSECTION_SIZE);
	return *start + SUBSECTION_SIZE - 1 <= res->end;
}

/* Memory that the system does not use: memmap=SIZE!ADDRESS sets it aside. */
static phys_addr_t kunit_mm_memory(struct kunit *test)
{
	struct resource *res = NULL;
	phys_addr_t start;
	int ret;

	if (walk_iomem_res_desc(IORES_DESC_PERSISTENT_MEMORY_LEGACY,
				IORESOURCE_MEM, 0, -1, &start,
				kunit_mm_found) > 0)
		res = request_mem_region(start, SUBSECTION_SIZE, "kunit_mm");
	if (!res)
		kunit_skip(test, "needs memory set aside by memmap=");
	ret = kunit_add_action_or_reset(test, kunit_mm_release_region, res);
	KUNIT_ASSERT_EQ(test, ret, 0);
	return start;
}

/**
 * kunit_mm_coherent() - a sub-section of device-coherent pages
 * @test: test, at whose end they go; they have to be free by then
 * @ops: operations of the pagemap
 * @owner: its owner
 *
 * They are real memory. Where none was set aside the test is skipped. To be
 * called before kunit_mm_create(), as kunit_mm_pagemap() is.
 *
 * Return: the pagemap.
 */
struct dev_pagemap *kunit_mm_coherent(struct kunit *test,
				      const struct dev_pagemap_ops *ops,
				      void *owner)
{
	return kunit_mm_memremap(test, MEMORY_DEVICE_COHERENT,
				 kunit_mm_memory(test), SUBSECTION_SIZE, ops,
				 owner);
}
