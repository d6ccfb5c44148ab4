/*
 * qlease.pml - lock, extend, release and give up, with restarts, key RESYNC and the deletion of
 *   promises (protocol.md 2.5-2.8, 2.11).  One key.  The masters' memory is in master.pml.
 *
 *   P lock attempts (uid == ballot n == fencing token == 1..P, startable in ANY order, that is with
 *   skewed hybrid clocks); one EXTEND round for attempts 1..NEXT; coordinators may crash or pause
 *   (every action may be taken arbitrarily late or never).
 *
 * Network: a request, once sent, can be processed by any subset of the masters, in any order, any
 *   number of times, at any later moment (loss, duplication, reordering, unbounded delay; the code
 *   drops what is older than T_msg).  Acks likewise; acks of a crashed incarnation still arrive.
 *
 * -DQUERY: promises are asked about and deleted, see promise.pml.  -DHEAL, -DRAISE: see master.pml.
 *
 * Checked: I1 one holder at a time; I2 tokens rise in the order of the grants; I4 an instance that
 *   a majority acknowledged as released is never again LIVE on a majority.
 * Rules weakened by -DBUG_* (here and in master.pml) must yield a counterexample, see run_all.sh.
 */
#ifndef NEXT
#define NEXT 1
#endif
#define ON_GONE(m)   FORGET(m)
#define ON_MERGED(m) REMEMBER(m)
#define TICK_EXTRA(m) AGE(m)
#include "master.pml"

/* ---- attempts 1..P (index 0 unused) ---- */
byte as[P+1];    /* 0 idle 1 trying 2 held 3 over           */
byte bel[P+1];   /* remaining belief                        */
byte att[P+1];   /* remaining attempt window                */
byte ack[P+1];   /* masters whose TRYLOCK ack is out there  */
byte ratt[P+1], rack[P+1], relok[P+1];
byte xst[P+1], xatt[P+1], xbel[P+1], xack[P+1];
byte maxtok;     /* highest token ever activated            */

#if P>2
#define ATTEMPTS(X) X(1) X(2) X(3)
#elif P>1
#define ATTEMPTS(X) X(1) X(2)
#else
#define ATTEMPTS(X) X(1)
#endif
#define SYM_SETS(S,i) S(ack[i]) S(rack[i]) S(xack[i])
#if P>2
#define SYM_ATTEMPTS(S) SYM_SETS(S,1) SYM_SETS(S,2) SYM_SETS(S,3)
#elif P>1
#define SYM_ATTEMPTS(S) SYM_SETS(S,1) SYM_SETS(S,2)
#else
#define SYM_ATTEMPTS(S) SYM_SETS(S,1)
#endif
#define SYM_ALL(A,S,R) SYM_MASTERS(A,R) SYM_PROMISES(A,R) SYM_ATTEMPTS(S)

#ifdef BUG_NOATT
#define IN_TIME(i)  1
#else
#define IN_TIME(i)  (att[i]>0)
#endif
#ifdef BUG_DUPVOTE
#define QUORUM(v)   (CNT(v)>=1)        /* one ack delivered twice counts as two votes */
#else
#define QUORUM(v)   (CNT(v)>=2)
#endif
#ifdef BUG_LATECLOCK
#define START_BELIEF(i)  bel[i]=L;
#else
#define START_BELIEF(i)
#endif
#ifdef BUG_OVERWRITE
#define FREE_(m)    1
#else
#define FREE_(m)    (rec[m]==0 && sh[m]==0)
#endif
#ifdef BUG_NOTOKEN
#define FRESH(m,i)  1
#else
#define FRESH(m,i)  ((i) > mx[m])
#endif
#ifdef BUG_HANSWER                     /* a TRYLOCK is granted in a key RESYNC, which goes on */
#define VOTES(m)    ANSWERS(m)
#else
#define VOTES(m)    (st[m]==0)
#endif
#define LEFT(m,i)   (ratt[i]>0 && !HAS(rack[i],m))
#ifdef BUG_NOSEAL
#define SEAL(m,i)
#define CANREL(m,i) (rec[m]==i || LEFT(m,i))
#else
#define SEAL(m,i)   MAX(mx[m],i); MAX(ceil_[m],i);
#define CANREL(m,i) (rec[m]==i || i>mx[m] || LEFT(m,i))
#endif
#ifdef BUG_RELKEY
#define RELMATCH(m,i) (rec[m]!=0)
#undef  CANREL
#define CANREL(m,i)   (rec[m]!=0)
#else
#define RELMATCH(m,i) (rec[m]==i)
#endif
#ifdef BUG_EXTINST
#define XHAS(m,i) (rec[m]==i || (rec[m]==0 && sh[m]==0))
#else
#define XHAS(m,i) (rec[m]==i)
#endif

#define HELD(i)   (as[i]==2 && bel[i]>0)
#define LIVE(m,i) (st[m]!=1 && rec[m]==(i))
#define NLIVE(i)  ((LIVE(0,i)->1:0)+(LIVE(1,i)->1:0)+(LIVE(2,i)->1:0))
#define GHOST(i)  || (relok[i] && NLIVE(i)>=2)
#if P>2
#define OTHER(i)  ((i!=1 && HELD(1)) || (i!=2 && HELD(2)) || (i!=3 && HELD(3)))
#elif P>1
#define OTHER(i)  ((i!=1 && HELD(1)) || (i!=2 && HELD(2)))
#else
#define OTHER(i)  0
#endif

#include "promise.pml"
#include "symmetry.pml"

/* ------------------------------ coordinator of attempt i ------------------------------ */
#define COORD(i) \
 :: d_step { as[i]==0 -> as[i]=1; bel[i]=L; att[i]=TATT; printf("[%d] sends TRYLOCK\n", i); DONE } \
 :: d_step { as[i]==1 && IN_TIME(i) && QUORUM(ack[i]) -> \
      START_BELIEF(i) as[i]=2; att[i]=0; ack[i]=0; QCHK(i) \
      printf("[%d] *** quorum: HOLDS for %d more ticks\n", i, bel[i]); \
      if :: bel[i]>0 -> assert(!OTHER(i));            /* I1 mutual exclusion */ \
                        assert(i > maxtok);           /* I2 fencing          */ \
                        maxtok=i \
         :: else fi; DONE } \
 :: d_step { as[i]==1 || as[i]==2 -> printf("[%d] gives up or releases (was %d)\n", i, as[i]); \
      as[i]=3; bel[i]=0; att[i]=0; ack[i]=0; xatt[i]=0; xbel[i]=0; xack[i]=0; ratt[i]=TATT; DONE } \
 :: d_step { as[i]==3 && ratt[i]>0 && QUORUM(rack[i]) -> relok[i]=1; ratt[i]=0; rack[i]=0; \
      printf("[%d] release acknowledged by a majority\n", i); DONE } \
 :: d_step { i<=NEXT && as[i]==2 && xst[i]==0 -> xst[i]=1; xatt[i]=TATT; xbel[i]=L; \
      printf("[%d] sends EXTEND\n", i); DONE } \
 :: d_step { as[i]==2 && xatt[i]>0 && QUORUM(xack[i]) -> bel[i]=xbel[i]; xatt[i]=0; xbel[i]=0; xack[i]=0; QCHK(i) \
      printf("[%d] *** EXTENDED for %d more ticks\n", i, bel[i]); \
      if :: bel[i]>0 -> assert(!OTHER(i)) :: else fi; DONE }

/* ------------------------------ master m, request of attempt i ------------------------ */
#define MASTER(m,i) \
 :: d_step { VOTES(m) && as[i]>0 && rec[m]!=i && FREE_(m) && FRESH(m,i) -> \
      rec[m]=i; ex[m]=DA; PROMISE(m) \
      if :: as[i]==1 -> ack[i]=ack[i]|BIT(m) :: else fi; \
      MAX(mx[m],i); MAX(ceil_[m],i); \
      printf("   master %d accepts TRYLOCK of %d\n", m, i); DONE } \
 :: d_step { st[m]==0 && as[i]>0 && rec[m]!=0 && rec[m]!=i && i>mx[m] -> \
      mx[m]=i; MAX(ceil_[m],i); \
      printf("   master %d refuses TRYLOCK of %d\n", m, i); DONE } \
 :: d_step { st[m]==0 && xst[i]==1 && XHAS(m,i) && (ex[m]<DA || rec[m]==0 || (xatt[i]>0 && !HAS(xack[i],m))) -> \
      rec[m]=i; ex[m]=DA; CONFIRMED(m) if :: xatt[i]>0 -> xack[i]=xack[i]|BIT(m) :: else fi; \
      printf("   master %d extends %d\n", m, i); DONE } \
 :: d_step { ANSWERS(m) && as[i]==3 && CANREL(m,i) -> END_HEAL(m) SEAL(m,i) \
      if :: RELMATCH(m,i) -> GONE(m) :: else fi; \
      if :: ratt[i]>0 -> rack[i]=rack[i]|BIT(m) :: else fi; \
      printf("   master %d processes RELEASE/ABORT of %d\n", m, i); DONE } \
 CONFIRM(m,i) REACK(m,i)
#define ATTEMPT(i) COORD(i) MASTER(0,i) MASTER(1,i) MASTER(2,i)

active proctype System() {
end:
 do
 ATTEMPTS(ATTEMPT)
 RESTARTS
 HEALS
 RAISES
 ASKING
#ifndef NO_I4
 :: d_step { (0 ATTEMPTS(GHOST)) -> printf("!!! released instance is LIVE on a majority again\n"); assert(0) }   /* I4 */
#endif
 :: d_step {
      printf("---------------------------------------------- tick\n");
      TICK_MASTERS
      k=1;
      do :: k<=P -> DEC(bel[k]); DEC(att[k]);
           if :: ratt[k]>0 -> ratt[k]--; if :: ratt[k]==0 -> rack[k]=0 :: else fi :: else fi;
           if :: xatt[k]>0 -> xatt[k]--; if :: xatt[k]==0 -> xack[k]=0; xbel[k]=0 :: else -> DEC(xbel[k]) fi :: else fi; k++
         :: else -> break od;
      k=0; DONE }
 od
}
