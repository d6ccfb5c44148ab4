/*
 * symmetry.pml - with -DSYM a state and the ones with the masters' names exchanged are one state.
 *
 * The three masters run the same code and no message names one, so exchanging two of them
 * everywhere maps executions onto executions, and the properties do not tell them apart.  Every
 * step ends with DONE, which sorts the masters by all they know: up to six states become one.
 * The sort key need not tell all masters apart; where it does not, fewer states are joined.
 *
 * The model lists what is indexed by master (SYM_ALL): A(array), S(set of masters), R(array of sets).
 * Traces are made without -DSYM, so that a master keeps its name.
 */
#ifdef SYM
#define DONE c_code { sort_masters(); }
#define KEY_A(v)  key = key*67 + now.v[m];
#define KEY_S(v)  key = key*3 + ((now.v>>m)&1);
#define KEY_R(v)  key = key*5 + ((now.v[m]&1) + ((now.v[m]>>1)&1) + ((now.v[m]>>2)&1));
#define FLIP(v)   { unsigned d = ((v>>a) ^ (v>>b)) & 1; v ^= (d<<a) | (d<<b); }
#define SWAP_A(v) { unsigned t = now.v[a]; now.v[a] = now.v[b]; now.v[b] = t; }
#define SWAP_S(v) FLIP(now.v)
#define SWAP_R(v) FLIP(now.v[0]) FLIP(now.v[1]) FLIP(now.v[2]) SWAP_A(v)
c_code {
	static unsigned long sym_key(int m) { unsigned long key = 0; SYM_ALL(KEY_A,KEY_S,KEY_R) return key; }
	static void sym_swap(int a, int b) { SYM_ALL(SWAP_A,SWAP_S,SWAP_R) }
	static void sort_masters(void)
	{
		unsigned long x = sym_key(0), y = sym_key(1), z = sym_key(2), t;
		if (x > y) { sym_swap(0, 1); t = x; x = y; y = t; }
		if (y > z) { sym_swap(1, 2); t = y; y = z; z = t; }
		if (x > y) sym_swap(0, 1);
	}
};
#else
#define DONE skip
#endif
