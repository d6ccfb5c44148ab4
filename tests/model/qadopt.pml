/*
 * qadopt.pml - identity by value: a lock attempt is adopted by another client while its coordinator
 *   gives it up; retries that name the attempt before; RELEASE that ends UNKNOWN and the holder who
 *   takes the same instance up again (protocol.md 2.5, 2.6, 2.11, core/README.md).
 *
 * Clients of one value are one owner: "the clients of attempt i" below.  The masters' memory and
 * restart are in master.pml, the deletion of promises in promise.pml; the network as in qlease.pml:
 * everything but RELEASE can be processed at any later moment, any number of times.
 *
 *   LOCK     attempt 2 may be a retry: it names attempt 1, given up by the same coordinator (prev)
 *   EXTEND   by value, from any client, of an attempt that was OKed, is running or was given up;
 *            a majority of acks of one uid is a belief (adoption).  XMAX rounds an attempt
 *   ACCEPT   (-DACCEPT) an update without lease time: confirms like EXTEND, and its majority is a
 *            belief as long as the least remaining time (with lease time it is an EXTEND)
 *   ABORT    at any time while the coordinator has not answered OK; spares what is confirmed
 *   RELEASE  the client stops believing first.  Only processed, and only counted, within T_msg = T_att
 *            of its start; then UNKNOWN, and the clients may EXTEND again.  After OK it may land at
 *            any time (leftovers).  A master may refuse it (PROMISED, no seal): then it doubts its copy
 *
 * Checked: I1, I2 at every belief, I4, and that nobody is told OK of what was released OK.
 */
#ifndef XMAX
#define XMAX 1
#endif
#ifndef RMAX
#define RMAX 1
#endif
#define PROMISES         /* unconfirmed entries are told apart (promise.pml) */
#define ON_GONE(m)   FORGET(m)
#define ON_MERGED(m) REMEMBER(m)
#define TICK_EXTRA(m) AGE(m)
#include "master.pml"

/* ---- attempts 1..P (index 0 unused) ---- */
byte as[P+1];    /* coordinator: 0 idle 1 trying 2 answered OK 3 gave it up          */
byte bel[P+1];   /* remaining belief of the clients                                   */
byte told[P+1];  /* some client was told OK                                           */
byte att[P+1], ack[P+1];                 /* TRYLOCK: window, acks                      */
byte xn[P+1], xatt[P+1], xack[P+1];      /* EXTEND/ACCEPT: rounds begun, window, acks  */
byte rn[P+1], ratt[P+1], rack[P+1], relok[P+1];    /* RELEASE: the same; OK            */
byte prev;       /* attempt 2 names attempt 1: 1 as given up, 2 as released           */
byte maxtok;     /* highest token ever believed in                                    */
#ifdef ACCEPT
byte xout[P+1];  /* 1: an EXTEND is out there, 2: an ACCEPT is (bits)                  */
byte xkind[P+1], xbel[P+1];              /* of the running round                       */
#endif

#define ATTEMPTS(X)   X(1) X(2)
#define SYM_SETS(S,i) S(ack[i]) S(xack[i]) S(rack[i])
#define SYM_ALL(A,S,R) SYM_MASTERS(A,R) SYM_PROMISES(A,R) SYM_SETS(S,1) SYM_SETS(S,2)

#define QUORUM(v) (CNT(v)>=2)
#define HELD(i)   (bel[i]>0)
#define OTHER(i)  HELD(3-(i))
#define LIVE(m,i) (st[m]!=1 && rec[m]==(i))
#define NLIVE(i)  ((LIVE(0,i)->1:0)+(LIVE(1,i)->1:0)+(LIVE(2,i)->1:0))
#define GHOST(i)  || (relok[i] && NLIVE(i)>=2)
#define SEAL(m,i) MAX(mx[m],i); MAX(ceil_[m],i);
#include "promise.pml"
#include "symmetry.pml"

#ifdef BUG_ABORTALL                      /* ABORT removes confirmed entries too */
#define ABORTS(m)   1
#else
#define ABORTS(m)   (un[m]==1)
#endif
#ifdef BUG_PREVALL                       /* a retry removes a confirmed entry too */
#define REPLACES(m) (prev!=0)
#elif defined(BUG_PREVLATE)              /* a hand-off lands when its RELEASE can not any more */
#define REPLACES(m) (prev==2 || (prev==1 && un[m]==1))
#else
#define REPLACES(m) ((prev==2 && R_OUT(1)) || (prev!=0 && un[m]==1))
#endif
#ifdef BUG_EARLYUNK                      /* UNKNOWN is said while RELEASE can still land */
#define RELEASING(i) 0
#else
#define RELEASING(i) (ratt[i]>0)
#endif
#ifdef BUG_RESEND                        /* RELEASE is sent again after UNKNOWN */
#define R_OUT(i)    (rn[i]>0)
#else
#define R_OUT(i)    (ratt[i]>0 || relok[i])
#endif
#ifdef BUG_XNOCONF                       /* EXTEND does not confirm what it adopts */
#define ADOPT(m)
#elif defined(BUG_XDOUBT)                /* EXTEND confirms, but a doubt and its answers stay */
#define ADOPT(m)    if :: un[m]==1 -> CONFIRMED(m) :: else fi;
#else
#define ADOPT(m)    CONFIRMED(m)
#endif
#ifdef BUG_ACCEPTCONF                    /* ACCEPT does not confirm */
#define ACCEPTED(m)
#else
#define ACCEPTED(m) CONFIRMED(m)
#endif

#define BELIEVE(i,b) MAX(bel[i],b); told[i]=1; QCHK(i) \
      if :: bel[i]>0 -> assert(!OTHER(i));      /* I1 */ \
                        assert(i >= maxtok);    /* I2 */ \
                        assert(!relok[i]);      /* released is released */ \
                        maxtok=i \
         :: else fi;
#define SINCE(a)     (TATT-(a))          /* ticks since that round was sent */

/* ------------------------------ coordinators and clients of attempt i ----------------- */
#define LOCKS(i) \
 :: d_step { as[i]==0 -> as[i]=1; att[i]=TATT; printf("[%d] sends TRYLOCK\n", i); DONE } \
 :: d_step { as[i]==1 && att[i]>0 && QUORUM(ack[i]) -> printf("[%d] *** quorum: OK\n", i); as[i]=2; \
      /* a client of the same value may have adopted and released it meanwhile */ \
      if :: rn[i]==0 -> BELIEVE(i,L-SINCE(att[i])) :: else told[i]=1 fi; att[i]=0; ack[i]=0; DONE } \
 :: d_step { as[i]==1 -> as[i]=3; att[i]=0; ack[i]=0; printf("[%d] is given up: ABORT\n", i); DONE }
#define RETRY \
 :: d_step { as[2]==0 && as[1]==3 -> as[2]=1; prev=1; att[2]=TATT; printf("[2] sends TRYLOCK, prev 1\n"); DONE } \
 HANDOFF
#ifdef PREVREL                           /* what the handler allows, though nobody sends it yet */
#define HANDOFF \
 :: d_step { as[2]==0 && rn[1]>0 -> as[2]=1; prev=2; att[2]=TATT; printf("[2] sends TRYLOCK, prev 1 released\n"); DONE }
#else
#define HANDOFF
#endif
#ifdef ACCEPT
#define XBEGIN(i) \
 :: d_step { xn[i]<XMAX && as[i]>0 && xatt[i]==0 && !RELEASING(i) -> xn[i]++; xatt[i]=TATT; xack[i]=0; \
      xkind[i]=1; xout[i]=xout[i]|1; xbel[i]=L; printf("[%d] somebody sends EXTEND\n", i); DONE } \
 :: d_step { xn[i]<XMAX && as[i]>0 && xatt[i]==0 && !RELEASING(i) -> xn[i]++; xatt[i]=TATT; xack[i]=0; \
      xkind[i]=2; xout[i]=xout[i]|2; xbel[i]=DA; printf("[%d] somebody sends ACCEPT\n", i); DONE }
#define XBELIEF(i)   xbel[i]
#define XEND(i)      xatt[i]=0; xack[i]=0; xkind[i]=0; xbel[i]=0;
#define EXTENDS(i)   (xout[i]&1)
#define XKIND(i,x)   (xkind[i]==x)
#define TICK_X(i)    DEC(xbel[i]);
#else
#define XBEGIN(i) \
 :: d_step { xn[i]<XMAX && as[i]>0 && xatt[i]==0 && !RELEASING(i) -> xn[i]++; xatt[i]=TATT; xack[i]=0; \
      printf("[%d] somebody sends EXTEND\n", i); DONE }
#define XBELIEF(i)   (L-SINCE(xatt[i]))
#define XEND(i)      xatt[i]=0; xack[i]=0;
#define EXTENDS(i)   (xn[i]>0)
#define XKIND(i,x)   1
#define TICK_X(i)
#endif
#define XRUNS(m,i,x) (xatt[i]>0 && XKIND(i,x) && !HAS(xack[i],m))
#define CLIENTS(i) XBEGIN(i) \
 :: d_step { xatt[i]>0 && QUORUM(xack[i]) -> printf("[%d] *** EXTENDED or adopted, %d more ticks\n", i, XBELIEF(i)); \
      BELIEVE(i,XBELIEF(i)) XEND(i) DONE } \
 :: d_step { rn[i]<RMAX && told[i] && ratt[i]==0 && !relok[i] -> rn[i]++; bel[i]=0; XEND(i) ratt[i]=TATT; \
      printf("[%d] a client stops believing and sends RELEASE\n", i); DONE } \
 :: d_step { ratt[i]>0 && QUORUM(rack[i]) -> relok[i]=1; ratt[i]=0; rack[i]=0; printf("[%d] RELEASE: OK\n", i); DONE }

/* ------------------------------ master m, requests of attempt i ----------------------- */
#define GRANT(m,i) \
      rec[m]=i; ex[m]=DA; PROMISE(m) \
      if :: as[i]==1 -> ack[i]=ack[i]|BIT(m) :: else fi; SEAL(m,i)
#define MASTER(m,i) \
 :: d_step { st[m]==0 && as[i]>0 && rec[m]==0 && sh[m]==0 && i>mx[m] -> GRANT(m,i) \
      printf("   master %d accepts TRYLOCK of %d\n", m, i); DONE } \
 :: d_step { st[m]==0 && as[i]>0 && rec[m]!=0 && rec[m]!=i && i>mx[m] && !(i==2 && REPLACES(m)) -> SEAL(m,i) \
      printf("   master %d refuses TRYLOCK of %d\n", m, i); DONE } \
 :: d_step { st[m]==0 && EXTENDS(i) && rec[m]==i && (ex[m]<DA || un[m]!=0 || XRUNS(m,i,1)) -> \
      ex[m]=DA; ADOPT(m) if :: XRUNS(m,i,1) -> xack[i]=xack[i]|BIT(m) :: else fi; \
      printf("   master %d extends %d\n", m, i); DONE } \
 ACCEPTS(m,i) \
 :: d_step { ANSWERS(m) && as[i]==3 && (rec[m]==i || i>mx[m]) -> END_HEAL(m) SEAL(m,i) \
      if :: rec[m]==i && ABORTS(m) -> GONE(m) printf("   master %d: ABORT of %d\n", m, i) \
         :: else printf("   master %d: ABORT of %d only seals\n", m, i) fi; DONE } \
 :: d_step { ANSWERS(m) && R_OUT(i) && (rec[m]==i || i>mx[m] || (ratt[i]>0 && !HAS(rack[i],m))) -> END_HEAL(m) SEAL(m,i) \
      if :: rec[m]==i -> GONE(m) :: else fi; \
      if :: ratt[i]>0 -> rack[i]=rack[i]|BIT(m) :: else fi; \
      printf("   master %d processes RELEASE of %d\n", m, i); DONE } \
 CONFIRM(m,i) REACK(m,i) DOUBT(m,i)
#define REPLACE(m) \
 :: d_step { st[m]==0 && as[2]>0 && rec[m]==1 && REPLACES(m) -> GONE(m) \
      if :: 2>mx[m] -> GRANT(m,2) printf("   master %d: TRYLOCK of 2 replaces 1\n", m) \
         :: else printf("   master %d: TRYLOCK of 2 removes 1 and is stale\n", m) fi; DONE }
#ifdef ACCEPT
#define ACCEPTS(m,i) \
 :: d_step { st[m]==0 && (xout[i]&2) && rec[m]==i && (un[m]!=0 || XRUNS(m,i,2)) -> \
      if :: XRUNS(m,i,2) -> xack[i]=xack[i]|BIT(m); if :: ex[m]<xbel[i] -> xbel[i]=ex[m] :: else fi :: else fi; \
      ACCEPTED(m) printf("   master %d: ACCEPT of %d\n", m, i); DONE }
#else
#define ACCEPTS(m,i)
#endif
#ifdef QUERY
#define DOUBT(m,i) \
 :: d_step { st[m]==0 && R_OUT(i) && rec[m]==i && un[m]==0 -> un[m]=2; \
      printf("   master %d refuses RELEASE of %d (PROMISED) and doubts it\n", m, i); DONE }
#else
#define DOUBT(m,i)
#endif
#define ATTEMPT(i) LOCKS(i) CLIENTS(i) MASTER(0,i) MASTER(1,i) MASTER(2,i)

active proctype System() {
end:
 do
 ATTEMPTS(ATTEMPT)
 RETRY REPLACE(0) REPLACE(1) REPLACE(2)
 RESTARTS
 HEALS
 RAISES
 ASKING
 :: d_step { (0 ATTEMPTS(GHOST)) -> printf("!!! released instance is LIVE on a majority again\n"); assert(0) }   /* I4 */
 :: d_step {
      printf("---------------------------------------------- tick\n");
      TICK_MASTERS
      k=1;
      do :: k<=P -> DEC(bel[k]); DEC(att[k]); TICK_X(k)
           if :: att[k]==0 -> ack[k]=0 :: else fi;
           if :: ratt[k]>0 -> ratt[k]--; if :: ratt[k]==0 -> rack[k]=0 :: else fi :: else fi;
           if :: xatt[k]>0 -> xatt[k]--; if :: xatt[k]==0 -> XEND(k) :: else fi :: else fi; k++
         :: else -> break od;
      k=0; DONE }
 od
}
