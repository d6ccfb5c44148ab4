/* Intrusive doubly linked circular list. The head is a struct list too. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct list {
	struct list *next, *prev;
};

static inline void list_init(struct list *l)
{
	l->next = l->prev = l;
}

static inline bool list_empty(const struct list *l)
{
	return l->next == l;
}

/* Insert @n at the end of the list @head. */
static inline void list_add_tail(struct list *head, struct list *n)
{
	n->prev = head->prev;
	n->next = head;
	head->prev->next = n;
	head->prev = n;
}

/* Take @n out and make it a list of its own, so that removing twice is harmless. */
static inline void list_remove(struct list *n)
{
	n->prev->next = n->next;
	n->next->prev = n->prev;
	list_init(n);
}

/* Every entry is on its own again. */
static inline void list_clear(struct list *head)
{
	while (!list_empty(head))
		list_remove(head->next);
}

static inline void list_move_tail(struct list *head, struct list *n)
{
	list_remove(n);
	list_add_tail(head, n);
}

#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))
