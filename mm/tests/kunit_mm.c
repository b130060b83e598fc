// SPDX-License-Identifier: GPL-2.0-only
/*
 * An address space for KUnit tests.
 *
 * Scope
 *
 *   An mm that the thread of the test uses like a process: it maps files and
 *   anonymous memory and accesses them. Mappings are at fixed addresses, a PMD
 *   apart, so that results do not depend on the layout of the architecture.
 *
 *   A test can plant an entry: write it into an empty PTE under the page-table
 *   lock. A planted entry has no reference, so it must be cleared before the
 *   page tables are freed. Therefore a deferred action puts the mm after the
 *   thread of the test has exited, and the actions that clear planted entries,
 *   which were added later, run before.
 *
 * Failures
 *
 *   A function that cannot do its work fails an assertion, which ends the test.
 *   No function does so with a lock held.
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/hugetlb.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/mman.h>
#include <linux/page_idle.h>
#include <linux/rmap.h>
#include <linux/sched/mm.h>
#include <linux/sched/sysctl.h>
#include <linux/sched/signal.h>
#include <linux/shmem_fs.h>
#include <linux/uaccess.h>
#include <linux/userfaultfd_k.h>

#include <asm/tlb.h>

#include "../internal.h"
#include "kunit_mm.h"

/* Valid on every architecture, and the start of a PUD on most */
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

	/* One reference is for the thread, which puts it when it exits. */
	mmget(mm);
	kthread_use_mm(mm);
	ret = kunit_add_action_or_reset(test, kunit_mm_release, mm);
	KUNIT_ASSERT_EQ(test, ret, 0);

	km->test = test;
	km->mm = mm;
	km->cursor = KUNIT_MM_FIRST;
	return km;
}

/* Copy a mapping and its pages to the empty @mm, as fork() does. */
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
 * kunit_mm_fork() - create the address space of a child with one mapping
 * @km: address space of the parent
 * @addr: an address in an anonymous mapping
 * @child: receives the address space of the child, also if the copy fails
 *
 * kunit_mm_exit() ends the child, at the latest the end of the test.
 *
 * Return: 0, or the error of the copy.
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
	/* The mm may outlive this thread, which must not stay its owner. */
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
 * kunit_mm_exit() - end the address space of a child
 * @km: address space of the parent
 * @child: from kunit_mm_fork(); not the one that the thread uses
 */
void kunit_mm_exit(struct kunit_mm *km, struct mm_struct *child)
{
	kunit_release_action(km->test, kunit_mm_put, child);
}

/**
 * kunit_mm_enter() - switch to another address space
 * @km: address space of the test, from now on @mm
 * @mm: address space of a child, or of the parent
 *
 * Return: the previous address space.
 */
struct mm_struct *kunit_mm_enter(struct kunit_mm *km, struct mm_struct *mm)
{
	struct mm_struct *left = km->mm;

	/*
	 * When the thread exits, it puts the mm that it uses. The lazy
	 * reference of kthread_use_mm() stays with the mm of kunit_mm_create().
	 * Another one keeps the previous mm across the switch.
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
 * kunit_mm_thread_start() - start another thread of the process
 * @thread: state, in use until the thread is done
 * @km: address space that the thread uses
 * @addr: for @work
 * @work: function that the thread runs
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
 * @file: file, mapped from its start, or NULL for anonymous memory
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
 * kunit_mm_map_fixed() - map anonymous memory without huge pages
 * @km: address space of the current thread
 * @addr: address (bytes, page aligned)
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
 * kunit_mm_map() - map anonymous memory without huge pages at a free address
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
 * kunit_mm_map_huge() - map anonymous memory with huge pages
 * @km: address space of the current thread
 * @nr: number of base pages
 *
 * Skips the test without transparent huge pages.
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
 * kunit_mm_try_read() - read a byte that may be inaccessible
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
 * @set: flags to set
 * @clear: flags to clear
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
 * kunit_mm_zap() - zap pages by MADV_DONTNEED
 * @km: address space
 * @addr: first page
 * @nr: number of pages
 */
void kunit_mm_zap(struct kunit_mm *km, unsigned long addr, unsigned long nr)
{
	kunit_mm_advise(km, addr, nr, MADV_DONTNEED);
}

/**
 * kunit_mm_protect() - change the permissions of a part of a VMA
 * @km: address space
 * @addr: first page
 * @nr: number of pages
 * @vm_flags: VM_READ and VM_WRITE, or 0
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
 * kunit_mm_put_word() - write to the first word of a page
 * @addr: first page of a mapping of this thread
 * @i: index of the page
 * @word: value
 *
 * Return: 0, or -EFAULT.
 */
int kunit_mm_put_word(unsigned long addr, unsigned long i, unsigned long word)
{
	return put_user(word, (unsigned long __user *)(addr + i * PAGE_SIZE));
}

/**
 * kunit_mm_get_word() - read the first word of a page, which must be possible
 * @km: address space
 * @addr: first page of a mapping
 * @i: index of the page
 *
 * Return: the word.
 */
unsigned long kunit_mm_get_word(struct kunit_mm *km, unsigned long addr,
				unsigned long i)
{
	unsigned long word = 0;

	KUNIT_EXPECT_EQ(km->test, 0,
			get_user(word, (unsigned long __user *)
				 (addr + i * PAGE_SIZE)));
	return word;
}

#ifdef CONFIG_NUMA_BALANCING
static void kunit_mm_reset_balancing(void *mode)
{
	sysctl_numa_balancing_mode = (long)mode;
}

/**
 * kunit_mm_hint() - scan a range once, as NUMA balancing does
 * @km: address space
 * @addr: first address, in bytes
 * @nr: number of pages, all of one VMA
 *
 * Skips the test if the kernel has no NUMA balancing.
 */
void kunit_mm_hint(struct kunit_mm *km, unsigned long addr, unsigned long nr)
{
	if (!(sysctl_numa_balancing_mode & NUMA_BALANCING_NORMAL)) {
		kunit_add_action(km->test, kunit_mm_reset_balancing,
				 (void *)(long)sysctl_numa_balancing_mode);
		sysctl_numa_balancing_mode |= NUMA_BALANCING_NORMAL;
	}
	mmap_read_lock(km->mm);
	change_prot_numa(vma_lookup(km->mm, addr), addr,
			 addr + (nr << PAGE_SHIFT));
	mmap_read_unlock(km->mm);
}
#else
void kunit_mm_hint(struct kunit_mm *km, unsigned long addr, unsigned long nr)
{
	kunit_skip(km->test, "no NUMA balancing in this kernel");
}
#endif

/**
 * kunit_mm_make_read_only() - make entries read-only in a writable VMA
 * @km: address space
 * @addr: first page
 * @nr: number of pages
 *
 * By mprotect() to read-only and back.
 */
void kunit_mm_make_read_only(struct kunit_mm *km, unsigned long addr,
			     unsigned long nr)
{
	kunit_mm_protect(km, addr, nr, VM_READ);
	kunit_mm_protect(km, addr, nr, VM_READ | VM_WRITE);
}

/**
 * kunit_mm_uffd_wp() - write-protect pages, as UFFDIO_WRITEPROTECT does
 * @km: address space
 * @addr: first page
 * @nr: number of pages
 * @enable: set the protection, or clear it
 */
void kunit_mm_uffd_wp(struct kunit_mm *km, unsigned long addr,
		      unsigned long nr, bool enable)
{
	mmap_read_lock(km->mm);
	uffd_wp_range(vma_lookup(km->mm, addr), addr, nr << PAGE_SHIFT, enable);
	mmap_read_unlock(km->mm);
}

/**
 * kunit_mm_is_young() - was the folio accessed, as far as its flags say?
 * @folio: folio
 *
 * LRU_GEN clears PG_referenced, so the idle flags keep the age there.
 *
 * Return: whether it was.
 */
bool kunit_mm_is_young(struct folio *folio)
{
	if (lru_gen_enabled() && IS_ENABLED(CONFIG_PAGE_IDLE_FLAG))
		return folio_test_young(folio);
	return folio_test_referenced(folio);
}

/**
 * kunit_mm_make_old() - clear the flags of kunit_mm_is_young()
 * @folio: folio
 */
void kunit_mm_make_old(struct folio *folio)
{
	folio_clear_referenced(folio);
	folio_test_clear_young(folio);
}

/**
 * kunit_mm_pmd() - value of an entry of the PMD level
 * @km: address space
 * @addr: address that it maps
 *
 * Return: the entry, or an empty one if there is no page table.
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
 * Return: the PTE, or an empty one if there is no page table.
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
 * kunit_mm_plant() - write a non-present entry to an empty PTE
 * @km: address space
 * @addr: address that the PTE maps
 * @pte: the entry
 *
 * The PTE is cleared when the test ends.
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
 * kunit_mm_change() - change PTEs in place
 * @km: address space
 * @addr: first page; all pages are in one page table
 * @nr: number of pages
 * @change: returns the new value of a PTE
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
 * Also keeps khugepaged away from it.
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
 * kunit_mm_keep_file() - put a file when the test ends
 * @test: the test
 * @file: file, or an error, which fails the test
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
 * kunit_mm_file() - create a file with the operations of a test
 * @test: the test; the file is put when it ends
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
 * kunit_mm_shmem() - create a file in shared memory
 * @test: the test; the file is put when it ends
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

/* The pool may be empty. Allow surplus pages. */
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
