/*
 * master.pml - one key at each of three masters: what a master remembers, how it loses that and how
 *   it gets it back.  Included by qlease.pml, qadopt.pml and qfold.pml, which add the messages.
 *
 * A master is FREE, LIVE (rec = uid of a lock attempt) or SHADOW (sh: somebody may hold the key),
 * and always knows mx: the highest ballot it ever accepted, refused or released for the key.
 *
 * RESTART (protocol.md 2.8): CRASH loses everything but the ceiling (the tiny file).  The master
 *   waits TWAIT, asks both others, merges (LIVE if both report the same uid, SHADOW if any reports
 *   something, else FREE) or, after DQ, starts empty with the ceiling as its floor.
 * KEY RESYNC ("heal"): a master without the key that lost no memory may at any time stop answering
 *   for it, wait, ask both others and become LIVE when both report the same uid.  It may give up at
 *   any time; then it is what it was.  What makes it do so is left open here.
 * Reports are old when they are used: they are collected one at a time, and merged at any moment
 *   after the second one.  Every copied remaining time runs on meanwhile.
 * RAISE: mx may grow at any moment, as far as any ballot in use.  It stands for everything that
 *   makes a master's floor higher than this key alone would: the floor of a slot (of other keys'
 *   folded, sealed and freed entries) in a merge or without one, and the clean restart, which is
 *   nothing but a raised floor for a master that held nothing.
 *
 * Time: one global tick, every timer is a countdown.  The holder's lease runs from the moment the
 *   request was SENT, the master's from the moment it was ACCEPTED.  Clock drift is the arithmetic
 *   DA >= L, DQ >= L, TWAIT >= TATT (here equal: tight).
 */
#ifndef P
#define P 2              /* lock attempts: uid == ballot == token == 1..P */
#endif
#ifndef L
#define L 2              /* holder lease (ticks)                          */
#endif
#ifndef DA
#define DA L             /* master lease                                  */
#endif
#ifndef TATT
#define TATT 1           /* attempt window                                */
#endif
#ifndef TWAIT
#define TWAIT TATT       /* wait after a restart, before peers are asked  */
#endif
#ifndef THEAL
#define THEAL TATT       /* the same wait of a key RESYNC                 */
#endif
#ifndef DQ
#define DQ L             /* quarantine when peers cannot be asked         */
#endif
#ifndef CRASHES
#define CRASHES 0
#endif

#define BIT(x)   (1<<(x))
#define HAS(v,x) (((v)>>(x))&1)
#define CNT(v)   (((v)&1)+(((v)>>1)&1)+(((v)>>2)&1))
#define DEC(v)   if :: v>0 -> v-- :: else fi
#define MAX(v,x) if :: (x)>v -> v=(x) :: else fi

byte rec[3];     /* LIVE uid, 0 = none                                   */
byte ex[3];      /* its remaining life                                   */
byte un[3];      /* 1: it is unconfirmed, a promise (promise.pml)          */
byte sh[3];      /* SHADOW for that long: no grants, no information      */
byte mx[3];      /* maxn                                                 */
byte st[3];      /* 0 ACTIVE  1 RESTARTED  2 key RESYNC                  */
byte wt[3], qt[3];
byte ceil_[3];   /* durable ceiling                                      */
byte got[3];     /* peers that have reported, and what they said:        */
byte arec[3], aex[3], aun[3], ash[3], amx[3];
byte crashes, k;

#ifdef BUG_NOFLOOR
#define FLOOR_R(m) 0
#define FLOOR_Q(m) 0
#else
#define FLOOR_R(m) amx[m]
#define FLOOR_Q(m) ceil_[m]
#endif
#ifdef BUG_NOCOVER
#define COVER(m)
#else
#define COVER(m) MAX(ceil_[m],mx[m]);
#endif
#ifdef BUG_NORESYNC
#define AFTER_CRASH(m) mx[m]=ceil_[m];
#else
#define AFTER_CRASH(m) st[m]=1; wt[m]=TWAIT; qt[m]=DQ;
#endif
#ifdef BUG_UNION
#define AGREE(m,p) (arec[m]==0 || rec[p]==0 || rec[p]==arec[m])   /* one witness is enough */
#else
#define AGREE(m,p) (rec[p]==arec[m])
#endif
#ifdef BUG_UNCONF            /* a merged entry counts as unconfirmed whatever was reported */
#define MERGED_UN(m) (arec[m]!=0)
#else
#define MERGED_UN(m) aun[m]
#endif
#ifdef BUG_HONE
#define HBLK 1
#else
#define HBLK 2
#endif
#ifdef BUG_HKEEP             /* RELEASE and ABORT do not end a key RESYNC */
#define END_HEAL(m)
#else
#define END_HEAL(m) if :: st[m]==2 -> st[m]=0; CLR(m) :: else fi;
#endif
#ifdef BUG_HFLOOR            /* a healed entry takes the others' maxn for its own */
#define HEAL_MX(m) mx[m]=amx[m];
#else
#define HEAL_MX(m) MAX(mx[m],amx[m]);
#endif
#ifdef BUG_FLOORFIRST        /* a peer sends its floor before it walks its entries */
#define REPORT_MX(m,p) if :: rec[p]!=0 -> MAX(amx[m],mx[p]) :: else fi;
#define FLOOR_KNOWN(m,p) HAS(fgot[m],p)
byte fgot[3];
#define FLOORS(m,p) :: d_step { st[m]==1 && wt[m]==0 && st[p]!=1 && !HAS(fgot[m],p) -> fgot[m]=fgot[m]|BIT(p); \
      if :: rec[p]==0 -> MAX(amx[m],mx[p]) :: else fi; printf("   master %d reads the floor of %d\n", m, p); DONE }
#define CLR_FLOORS(m) fgot[m]=0;
#define SYM_FLOORS(R) R(fgot)
#else
#define REPORT_MX(m,p) MAX(amx[m],mx[p]);
#define FLOOR_KNOWN(m,p) 1
#define FLOORS(m,p)
#define CLR_FLOORS(m)
#define SYM_FLOORS(R)
#endif

#define CLR(m) got[m]=0; arec[m]=0; aex[m]=0; aun[m]=0; ash[m]=0; amx[m]=0; wt[m]=0; qt[m]=0; CLR_FLOORS(m)

#define UNC(p) (un[p]==1)

/* the report of peer p arrives: a copy of what p has now */
#define REPORT(m,p) REPORT_MX(m,p) MAX(ash[m],sh[p]); MAX(aex[m],ex[p]); \
      if :: got[m]==0 -> arec[m]=rec[p]; aun[m]=UNC(p) \
         :: else -> if :: AGREE(m,p) -> MAX(arec[m],rec[p]); aun[m]=aun[m]&UNC(p) \
                       :: else -> arec[m]=0; aun[m]=0 fi; \
                    if :: arec[m]==0 -> MAX(ash[m],aex[m]); aex[m]=0 :: else fi fi; \
      got[m]=got[m]|BIT(p);

/* ---- hooks: what the including model knows about an entry that comes or goes ---- */
#ifndef ON_GONE
#define ON_GONE(m)       /* the entry of m is gone, or its master has crashed */
#endif
#ifndef ON_MERGED
#define ON_MERGED(m)     /* m is ACTIVE again with what the others told it    */
#endif
#ifndef ON_HEALED
#define ON_HEALED(m) ON_MERGED(m)
#endif
#ifndef ON_CRASH
#define ON_CRASH(m)
#endif
#define GONE(m) rec[m]=0; ex[m]=0; un[m]=0; ON_GONE(m)

#define CRASH(m) \
 :: d_step { crashes<CRASHES && st[m]!=1 -> crashes++; \
      GONE(m) sh[m]=0; mx[m]=0; CLR(m) AFTER_CRASH(m) ON_CRASH(m) \
      printf("   master %d CRASHES and restarts empty\n", m); DONE }
#define SYNC(m,p) \
 :: d_step { st[m]==1 && wt[m]==0 && st[p]!=1 && !HAS(got[m],p) && FLOOR_KNOWN(m,p) -> REPORT(m,p) \
      printf("   master %d reads state of %d: rec %d shadow %d floor %d\n", m, p, rec[p], sh[p], mx[p]); DONE }
#define MERGE(m) \
 :: d_step { st[m]==1 && CNT(got[m])==2 -> un[m]=MERGED_UN(m); rec[m]=arec[m]; ex[m]=aex[m]; sh[m]=ash[m]; \
      mx[m]=FLOOR_R(m); COVER(m) st[m]=0; CLR(m) ON_MERGED(m) \
      printf("   master %d ACTIVE: rec %d shadow %d floor %d\n", m, rec[m], sh[m], mx[m]); DONE } \
 :: d_step { st[m]==1 && qt[m]==0 && wt[m]==0 -> mx[m]=FLOOR_Q(m); st[m]=0; CLR(m) \
      printf("   master %d ACTIVE after quarantine, floor %d\n", m, mx[m]); DONE }
#if CRASHES>0
#define RESTARTS CRASH(0) CRASH(1) CRASH(2) MERGE(0) MERGE(1) MERGE(2) \
  FLOORS(0,1) FLOORS(0,2) FLOORS(1,0) FLOORS(1,2) FLOORS(2,0) FLOORS(2,1) \
  SYNC(0,1) SYNC(0,2) SYNC(1,0) SYNC(1,2) SYNC(2,0) SYNC(2,1)
#else
#define RESTARTS
#endif

#ifdef HEAL
#define ANSWERS(m) (st[m]!=1)       /* RELEASE and ABORT are heard in a key RESYNC too */
#define HEALM(m) \
 :: d_step { st[m]==0 && rec[m]==0 -> st[m]=2; wt[m]=THEAL; \
      printf("   master %d: key RESYNC begins (shadow %d floor %d)\n", m, sh[m], mx[m]); DONE } \
 :: d_step { st[m]==2 && CNT(got[m])>=HBLK && arec[m]!=0 && aex[m]>0 -> \
      un[m]=MERGED_UN(m); rec[m]=arec[m]; ex[m]=aex[m]; sh[m]=0; HEAL_MX(m) COVER(m) st[m]=0; CLR(m) ON_HEALED(m) \
      printf("   master %d is healed: rec %d floor %d\n", m, rec[m], mx[m]); DONE } \
 :: d_step { st[m]==2 -> st[m]=0; CLR(m) printf("   master %d gives its key RESYNC up\n", m); DONE }
#define HEALASK(m,p) \
 :: d_step { st[m]==2 && wt[m]==0 && st[p]==0 && rec[p]!=0 && !HAS(got[m],p) && (got[m]==0 || arec[m]==rec[p]) -> REPORT(m,p) \
      printf("   master %d hears that %d has %d, floor %d\n", m, p, rec[p], mx[p]); DONE }
#define HEALS HEALM(0) HEALM(1) HEALM(2) \
  HEALASK(0,1) HEALASK(0,2) HEALASK(1,0) HEALASK(1,2) HEALASK(2,0) HEALASK(2,1)
#else
#define ANSWERS(m) (st[m]==0)
#define HEALS
#endif

#ifdef RAISE
#define RAISEM(m) \
 :: d_step { st[m]!=1 && mx[m]<P -> mx[m]++; COVER(m) printf("   master %d: floor raised to %d\n", m, mx[m]); DONE }
#define RAISES RAISEM(0) RAISEM(1) RAISEM(2)
#else
#define RAISES
#endif

/* one tick of all masters */
#ifdef BUG_EXPEARLY
#define EXPIRE(k) ex[k]=0
#else
#define EXPIRE(k) ex[k]--
#endif
#define TICK_MASTERS \
      k=0; do :: k<3 -> TICK_EXTRA(k) \
           if :: ex[k]>0 -> EXPIRE(k); if :: ex[k]==0 -> GONE(k) :: else fi :: else fi; \
           if :: aex[k]>0 -> aex[k]--; if :: aex[k]==0 && CNT(got[k])==2 -> arec[k]=0; aun[k]=0 :: else fi :: else fi; \
           DEC(sh[k]); DEC(wt[k]); DEC(qt[k]); DEC(ash[k]); k++ \
         :: else -> break od; k=0;
#ifndef TICK_EXTRA
#define TICK_EXTRA(k)
#endif

/* arrays indexed by master; arrays of sets of masters, indexed by master */
#define SYM_MASTERS(A,R) A(rec) A(ex) A(un) A(sh) A(mx) A(st) A(wt) A(qt) A(ceil_) \
  A(arec) A(aex) A(aun) A(ash) A(amx) R(got) SYM_FLOORS(R)
