#include "programs.h"

#include <stdio.h>

#include "hold_words.h"

int run_program(const struct options *o, int n, char **words)
{
	const struct hold_syntax syntax = {
		.name = "run", .value_flag = "--value", .usage = RUN_USAGE};
	struct hold_wish wish;
	bool again;
	int status = hold_words_take(&wish, &syntax, o, n, words);

	return status ? status : hold_run(&wish, &again);
}

int elect_program(const struct options *o, int n, char **words)
{
	const struct hold_syntax syntax = {
		.name = "elect", .value_flag = "--id", .waits_forever = true, .usage = ELECT_USAGE};
	struct hold_wish wish;
	bool again;
	int status = hold_words_take(&wish, &syntax, o, n, words);

	if (status)
		return status;
	do {
		status = hold_run(&wish, &again);
	} while (again);
	return status;
}
