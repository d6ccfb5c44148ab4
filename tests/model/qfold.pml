/*
 * qfold.pml - quorum reads, and the memory of what is gone: tombstones, the fold into a floor, T_msg
 *   (protocol.md 2.3, 2.6 read, 2.12; core/tomb.c, core/read.c).  One key, seen by one client that
 *   reads again and again while P attempts lock, extend and release.  master.pml: the masters' memory
 *   and restart; promise.pml (-DQUERY): deletion of promises.
 *
 * TOMBSTONE  what is left of a key that was LIVE or sealed: tn = its maxn, for TTOMB at least; then
 *   it is folded at any moment: the master goes on refusing what is <= mx, but answers "none" to a
 *   read.  Two "none" count as equal, although the floors behind them may differ.
 * T_MSG      a TRYLOCK can only be processed for TMSG after it was sent (EXTEND and RELEASE, which
 *   install nothing, at any later moment).
 * EARLY      after a merge, a clean restart (-DCLEAN: an orderly stop of a master that held nothing)
 *   and the early fold of a full table (the same step here) "none" is not said for TTOMB: the
 *   answer is the floor.
 * RETAKE     (-DRETAKE) a RELEASE can only be processed until UNKNOWN is said, T_msg after its start, and
 *   then the holder extends the same instance again.
 * READ       one round or more; the first is plain, the next ones are sealed with the highest n and uid
 *   that a majority of the answers before told.  Plain: LIVE uid | FREE tn or none or
 *   floor.  Sealed with s: mx is raised to s first, the answer is LIVE uid, mx | FREE mx.
 *    SHADOW, RESTARTED and key RESYNC give no information.
 *   held(i)  two masters LIVE i
 *   absent   two masters FREE with the same n; or, sealed: two answers at least, and each uid seen
 *            is ruled out by two answers that do not have it and are sealed against it
 *
 * Checked: I1, I2; a read that returns absent: nobody held all the time.  A read that returns
 *   held(i): i had not been released OK before it began, no higher token had been granted or read
 *   before, and no read between i's grant (or another read of i) and this one has returned absent.
 *   An EXTEND of i is not OK after such a read either.
 */
#ifndef TMSG
#define TMSG TATT
#endif
#ifndef TTOMB
#define TTOMB 4          /* 2*(TATT+TMSG)                                 */
#endif
#ifndef L
#define L 2
#endif
#ifndef DQ
#define DQ (TTOMB>L -> TTOMB : L)
#endif
#ifndef NEXT
#define NEXT 1
#endif
#define ON_GONE(m)   FORGET(m) BURY(m,mx[m])
#define ON_MERGED(m) REMEMBER(m) EARLY(m)
#define ON_HEALED(m) REMEMBER(m)
#define ON_CRASH(m)  tn[m]=0; tb[m]=0; eb[m]=0;
#define TICK_EXTRA(m) DEC(tb[m]); DEC(eb[m]); AGE(m)
#include "master.pml"

byte tn[3];      /* tombstone: n, 0 = none                     */
byte tb[3];      /* ticks before it may be folded              */
byte eb[3];      /* ticks in which "none" may not be said      */
#define BURY(m,n)  tn[m]=n; tb[m]=(n>0 -> TTOMB : 0);
#ifdef BUG_MERGENONE                     /* a restarted master may say "none" at once */
#define EARLY(m)
#else
#define EARLY(m)   eb[m]=TTOMB;
#endif
#ifdef BUG_CLEANNONE                     /* ... after a clean restart */
#define EARLY_C(m)
#else
#define EARLY_C(m) eb[m]=TTOMB;
#endif

/* ---- attempts 1..P (index 0 unused) ---- */
byte as[P+1];    /* 0 idle 1 trying 2 held 3 over 4 released (-DRETAKE) */
byte bel[P+1], att[P+1], ack[P+1];
byte mt[P+1];    /* ticks in which TRYLOCK can still be processed */
byte ratt[P+1], rack[P+1], relok[P+1];
byte xst[P+1], xatt[P+1], xack[P+1];
byte maxtok;     /* highest token granted or read              */
/* ---- the reader ---- */
byte rd;         /* 0 idle 1 plain 1+s sealed with s           */
byte rdt;        /* window                                     */
byte rmask, rans[3], rnn[3];
byte hold;       /* attempts that held throughout the read     */
byte seen, dead; /* granted or read held; read absent after that */
byte seen0, dead0, rel0, tok0;           /* when the read began */

#ifdef ONLY1
#define ATTEMPTS(X) X(1)
#else
#define ATTEMPTS(X) X(1) X(2)
#endif
#define SYM_SETS(S,i) S(ack[i]) S(xack[i]) S(rack[i])
#define SYM_ALL(A,S,R) SYM_MASTERS(A,R) SYM_PROMISES(A,R) A(tn) A(tb) A(eb) A(rans) A(rnn) S(rmask) \
  SYM_SETS(S,1) SYM_SETS(S,2)

#define QUORUM(v) (CNT(v)>=2)
#define HELD(i)   (as[i]==2 && bel[i]>0)
#define OTHER(i)  HELD(3-(i))
/* raise maxn: of a free key that leaves a tombstone, of a live one it is buried with it */
#define SEAL(m,i) if :: i>mx[m] -> mx[m]=i; MAX(ceil_[m],i); if :: rec[m]==0 -> BURY(m,i) :: else fi :: else fi;
#ifdef BUG_NOTMSG
#define DELIVERABLE(i) (as[i]>0)
#define TICK_MSG(i)
#else
#define DELIVERABLE(i) (mt[i]>0)
#define TICK_MSG(i) DEC(mt[i]);
#endif
#ifdef BUG_READANY
#define SAME(a,b)  1
#else
#define SAME(a,b)  (rnn[a]==rnn[b])
#endif
#ifdef BUG_GHOSTONE                      /* one master sealed against it rules a uid out */
#define GBLK 1
#else
#define GBLK 2
#endif
#define PROBE_SEAL(p,i) SEAL(p,i)
#include "promise.pml"
#include "symmetry.pml"

/* ------------------------------ coordinator of attempt i ------------------------------ */
#ifdef RETAKE                            /* after UNKNOWN the holder may extend the same instance */
#define RELEASED 4
#define R_OUT(i) (as[i]==3 || (as[i]==4 && (ratt[i]>0 || relok[i])))
#define TAKES(i) \
 :: d_step { i<=NEXT && as[i]==4 && ratt[i]==0 && !relok[i] && xst[i]==0 -> as[i]=2; xst[i]=1; xatt[i]=TATT; \
      printf("[%d] UNKNOWN was said: sends EXTEND\n", i); DONE }
#else
#define RELEASED 3
#define R_OUT(i) (as[i]==3)
#define TAKES(i)
#endif
#define COORD(i) TAKES(i) \
 :: d_step { as[i]==0 -> as[i]=1; att[i]=TATT; mt[i]=TMSG; printf("[%d] sends TRYLOCK\n", i); DONE } \
 :: d_step { as[i]==1 && att[i]>0 && QUORUM(ack[i]) -> \
      as[i]=2; bel[i]=L-(TATT-att[i]); att[i]=0; ack[i]=0; seen=seen|BIT(i); \
      printf("[%d] *** quorum: HOLDS for %d more ticks\n", i, bel[i]); \
      if :: bel[i]>0 -> assert(!OTHER(i)); assert(i>=maxtok); MAX(maxtok,i) :: else fi; DONE } \
 :: d_step { as[i]==1 || as[i]==2 -> printf("[%d] gives up or releases (was %d)\n", i, as[i]); hold=hold&(255-BIT(i)); \
      as[i]=(as[i]==1 -> 3 : RELEASED); bel[i]=0; att[i]=0; ack[i]=0; xatt[i]=0; xack[i]=0; ratt[i]=TATT; DONE } \
 :: d_step { as[i]>=3 && ratt[i]>0 && QUORUM(rack[i]) -> relok[i]=1; ratt[i]=0; rack[i]=0; \
      printf("[%d] release acknowledged by a majority\n", i); DONE } \
 :: d_step { i<=NEXT && as[i]==2 && xst[i]==0 -> xst[i]=1; xatt[i]=TATT; \
      printf("[%d] sends EXTEND\n", i); DONE } \
 :: d_step { as[i]==2 && xatt[i]>0 && QUORUM(xack[i]) -> MAX(bel[i],L-(TATT-xatt[i])); xatt[i]=0; xack[i]=0; \
      printf("[%d] *** EXTENDED for %d more ticks\n", i, bel[i]); \
      if :: bel[i]>0 -> assert(!OTHER(i)); assert(!HAS(dead,i)) :: else fi; DONE }

/* ------------------------------ master m, request of attempt i ------------------------ */
#define MASTER(m,i) \
 :: d_step { st[m]==0 && DELIVERABLE(i) && rec[m]==0 && sh[m]==0 && i>mx[m] -> \
      rec[m]=i; ex[m]=DA; PROMISE(m) tn[m]=0; tb[m]=0; mx[m]=i; MAX(ceil_[m],i); \
      if :: as[i]==1 -> ack[i]=ack[i]|BIT(m) :: else fi; \
      printf("   master %d accepts TRYLOCK of %d\n", m, i); DONE } \
 :: d_step { st[m]==0 && DELIVERABLE(i) && rec[m]!=0 && rec[m]!=i && i>mx[m] -> SEAL(m,i) \
      printf("   master %d refuses TRYLOCK of %d\n", m, i); DONE } \
 :: d_step { st[m]==0 && xst[i]==1 && rec[m]==i && (ex[m]<DA || (xatt[i]>0 && !HAS(xack[i],m))) -> \
      ex[m]=DA; CONFIRMED(m) if :: xatt[i]>0 -> xack[i]=xack[i]|BIT(m) :: else fi; \
      printf("   master %d extends %d\n", m, i); DONE } \
 :: d_step { ANSWERS(m) && R_OUT(i) && (rec[m]==i || i>mx[m] || (ratt[i]>0 && !HAS(rack[i],m))) -> END_HEAL(m) SEAL(m,i) \
      if :: rec[m]==i -> GONE(m) :: else fi; \
      if :: ratt[i]>0 -> rack[i]=rack[i]|BIT(m) :: else fi; \
      printf("   master %d processes RELEASE/ABORT of %d\n", m, i); DONE } \
 CONFIRM(m,i) REACK(m,i)
#ifdef NOFOLD                            /* nothing is ever folded, "none" is never said */
#define MAYFOLD(m) 0
#else
#define MAYFOLD(m) (tb[m]==0)
#endif
#define FOLD(m) \
 :: d_step { tn[m]>0 && MAYFOLD(m) -> tn[m]=0; printf("   master %d folds the key\n", m); DONE }
#ifdef CLEAN
#define CLEANM(m) \
 :: d_step { st[m]==0 && rec[m]==0 && sh[m]==0 && (mx[m]>0 || tn[m]>0) -> tn[m]=0; tb[m]=0; EARLY_C(m) \
      printf("   master %d: clean restart or early fold, floor %d\n", m, mx[m]); DONE }
#else
#define CLEANM(m)
#endif
#define ATTEMPT(i) COORD(i) MASTER(0,i) MASTER(1,i) MASTER(2,i)

/* ------------------------------ reads ------------------------------------------------- */
#define R_END rd=0; rdt=0; hold=0; rel0=0; dead0=0; seen0=0; tok0=0; R_ROUND
#define R_ROUND rmask=0; rans[0]=0; rans[1]=0; rans[2]=0; rnn[0]=0; rnn[1]=0; rnn[2]=0;
#define RELBITS   ((relok[1]->2:0)|(relok[2]->4:0))
#define HOLDBITS  ((HELD(1)->2:0)|(HELD(2)->4:0))
#define R_BEGIN \
 :: d_step { rd==0 -> rd=1; rdt=TATT; hold=HOLDBITS; rel0=RELBITS; dead0=dead; seen0=seen; tok0=maxtok; \
      printf("read starts\n"); DONE }
/* undecided by a majority of answers: again, sealed with the highest n and uid among them */
#define HIGHEST(m) if :: HAS(rmask,m) -> MAX(k,rnn[m]); MAX(k,rans[m]) :: else fi;
#define R_AGAIN \
 :: d_step { rd>0 && CNT(rmask)>=2 && rdt>0 -> if :: rd>1 -> k=rd-1 :: else k=0 fi; HIGHEST(0) HIGHEST(1) HIGHEST(2) rd=1+k; R_ROUND rdt=TATT; \
      printf("read again, sealed with %d\n", k); k=0; DONE }
#define INFORMS(m) (st[m]==0 && sh[m]==0)
#ifdef NOFOLD
#define FREE_N(m)  mx[m]
#else
#define FREE_N(m)  (rec[m]!=0 || eb[m]>0 -> mx[m] : tn[m])
#endif
#define R_ANSWER(m) \
 :: d_step { rd>0 && INFORMS(m) && !HAS(rmask,m) -> if :: rd>1 -> SEAL(m,(rd-1)) rnn[m]=mx[m] :: else rnn[m]=FREE_N(m) fi; \
      rans[m]=rec[m]; rmask=rmask|BIT(m); printf("   master %d answers read: rec %d n %d\n", m, rans[m], rnn[m]); DONE }
#define R_HELD(a,b) \
 :: d_step { rdt>0 && HAS(rmask,a) && HAS(rmask,b) && rans[a]!=0 && rans[a]==rans[b] -> \
      printf("read returns held(%d)\n", rans[a]); assert(!HAS(rel0,rans[a])); assert(!HAS(dead0,rans[a])); \
      assert(rans[a]>=tok0); MAX(maxtok,rans[a]); seen=seen|BIT(rans[a]); R_END DONE }
#define ABSENT dead=dead|seen0; assert(hold==0); R_END
#define R_FREE(a,b) \
 :: d_step { rdt>0 && HAS(rmask,a) && HAS(rmask,b) && rans[a]==0 && rans[b]==0 && SAME(a,b) -> \
      printf("read returns absent\n"); ABSENT DONE }
/* is uid u ruled out by the answers? */
#define AGAINST(m,u) (HAS(rmask,m) && rans[m]!=(u) && rnn[m]>=(u) -> 1 : 0)
#define RULED(u)   (AGAINST(0,u)+AGAINST(1,u)+AGAINST(2,u)>=GBLK)
#define GHOSTLY(m) (!HAS(rmask,m) || rans[m]==0 || RULED(rans[m]))
#define R_GHOSTS \
 :: d_step { rd>1 && rdt>0 && CNT(rmask)>=2 && GHOSTLY(0) && GHOSTLY(1) && GHOSTLY(2) -> \
      printf("read returns absent: whatever is there is ruled out\n"); ABSENT DONE }
#define READS R_BEGIN R_AGAIN R_ANSWER(0) R_ANSWER(1) R_ANSWER(2) \
  R_HELD(0,1) R_HELD(0,2) R_HELD(1,2) R_FREE(0,1) R_FREE(0,2) R_FREE(1,2) R_GHOSTS \
 :: d_step { rd>0 -> R_END DONE }

active proctype System() {
end:
 do
 READS
 ATTEMPTS(ATTEMPT)
 RESTARTS
 HEALS
 RAISES
 ASKING
 FOLD(0) FOLD(1) FOLD(2) CLEANM(0) CLEANM(1) CLEANM(2)
 :: d_step {
      printf("---------------------------------------------- tick\n");
      TICK_MASTERS
      k=1;
      do :: k<=P -> DEC(bel[k]); DEC(att[k]); TICK_MSG(k)
           if :: att[k]==0 -> ack[k]=0 :: else fi;
           if :: HELD(k) -> skip :: else hold=hold&(255-BIT(k)) fi;
           if :: ratt[k]>0 -> ratt[k]--; if :: ratt[k]==0 -> rack[k]=0 :: else fi :: else fi;
           if :: xatt[k]>0 -> xatt[k]--; if :: xatt[k]==0 -> xack[k]=0 :: else fi :: else fi; k++
         :: else -> break od;
      if :: rdt>0 -> rdt--; if :: rdt==0 -> R_END :: else fi :: else fi;
      k=0; DONE }
 od
}
