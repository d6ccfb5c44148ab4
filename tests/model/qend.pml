/*
 * qend.pml - updates inside one lease instance that ends: how long the writers of a value keep the
 *   lease, against a RELEASE of the value before (protocol.md 3, Lemma 1; core/update.c, core/master.c).
 *
 * Every master has a copy or not: the version it has (vb), what it has promised (pb), how long it
 * still keeps it (ex, countdown).  Each write has its own value; a value is named by the ballot that
 * wrote it first.
 *   LOCK     granted by masters 0 and 1 in the beginning; TRYLOCK may reach the third at any time
 *   EXTEND   of a value, by its clients: XMAX rounds; a majority of acks in its window is a belief
 *   UPDATE   U1, and -DU2: PREPARE and ACCEPT.  ACCEPT carries the longest remaining time of the
 *            promises it rests on, and who takes it keeps the lease for that long at least.  Who
 *            promised, and would have kept the lease for longer than that from his promise on (he was
 *            extended), refuses it.  Only acks of masters whose promise was counted are counted.
 *            U2 may also write back what it finds (identity update; U1 tries again).
 *            Belief: the least remaining time of the acks, and what was believed before.
 *            -DTTL: with lease time.  -DSTICKY: S, by the locker's coordinator, without PREPARE
 *   RELEASE  of a value, by any client of it, at any time, RMAX times: sticky (guard: the ballot of
 *            the value) or, once, after PREPARE(RB).  Processed and counted within T_msg = T_att
 *   READ     -DREADER: quorum reads, one after the other
 *   CRASHES  restarts with empty memory, state transfer; -DHEAL: key RESYNC (master.pml says how).
 *            A SHADOW knows no ballot: a RELEASE with a guard is no ack of it
 * Everything but RELEASE can be processed at any later moment, any number of times.  An answer
 * arrives at once or is lost; what a coordinator does with it may come later.
 *
 * Belief: bel belongs to the clients of cur, the latest value that anybody was told of.  Who knows
 * of a later value hands his belief on to it.  A RELEASE of cur, or of a value written over it of
 * which nobody was told, ends the belief first; a RELEASE of any other value is a mistake, and must
 * not harm it.
 *
 * Checked: H: while somebody believes, a majority of masters never could grant the key anew; I4;
 * nobody is told OK after a RELEASE was; all that was told lies on one chain, and nothing that was
 * told before a read or an EXTEND began is missing in it (I3).
 *
 * Mutations: -DBUG_SHORT (ACCEPT carries nothing), -DBUG_OUTLAST (who would keep the lease for longer
 * takes the ACCEPT), -DBUG_LATE (what he would keep is compared when the ACCEPT arrives, with what it
 * carries, not with what is left of that since the promise; acks of all masters count), -DBUG_STALEREL
 * (the guard of RELEASE is not compared), -DBUG_SHADOWACK (a SHADOW acknowledges a RELEASE with a guard),
 * -DBUG_RESEND (RELEASE lands after T_msg), -DBUG_EXTANY (EXTEND does not compare the value), -DBUG_COPY
 * (a merged copy counts like an accepted one, see qcas.pml), -DTWAIT=0.  Not needed in these scopes:
 * -DBUG_SHORTEST (ACCEPT carries the shortest promise), -DBUG_COUNTALL (acks of all masters count)
 */
#ifndef L
#define L 2              /* lease of LOCK and EXTEND, as master and as holder */
#endif
#ifndef TATT
#define TATT 1
#endif
#ifndef TWAIT
#define TWAIT TATT
#endif
#ifndef DQ
#define DQ L
#endif
#ifndef XMAX
#define XMAX 1
#endif
#ifndef RMAX
#define RMAX 1
#endif
#ifndef RB
#define RB 5             /* ballot of the prepared RELEASE: 3, 5 or 7          */
#endif
#ifndef CRASHES
#define CRASHES 0
#endif

#define BIT(x)   (1<<(x))
#define HAS(v,x) (((v)>>(x))&1)
#define CNT(v)   (((v)&1)+(((v)>>1)&1)+(((v)>>2)&1))
#define MAX(v,x) if :: (x)>v -> v=(x) :: else fi
#define MIN(v,x) if :: (x)<v -> v=(x) :: else fi
#define DEC(v)   if :: v>0 -> v-- :: else fi

/* ballots, versions: 0 none, 1 lock, 2 S, 4 U1, 6 U2; an op has the name of its ballot */
byte vb[3], pb[3], ex[3];
byte sl[3];              /* had the instance, or released it: TRYLOCK is too late here */
byte wr[7];              /* the value that a version has                     */
byte par[7];             /* the value that a value was written over          */
byte cur = 1, bel = L;

byte as[7];              /* 0 idle 1 preparing 2 accepting 3 success 4 unknown  */
byte att[7], ack[7], rem[7], lst[7];   /* window; promises or acks; remaining time carried; least of the acks */
byte base[7];            /* highest version promised                         */
byte xn, xv, xatt, xack, xout, xcur;  /* EXTEND: rounds, value, window, acks, values that are out there */
byte rn, rph, rv, rg, ratt, rack, rbest, rsame, rdrop; /* RELEASE: 1 preparing, 2 out; value, guard; rdrop: its clients believed */
byte rprep;              /* PREPARE(RB) is out there                         */
byte sr;                 /* a RELEASE with the lock's guard was sent         */
byte relok, k;
#ifdef READER
byte rd, rdt, rmask, rver, rcur;
#define SYM_READ(S) S(rmask)
#else
#define SYM_READ(S)
#endif
byte st[3];              /* 0 ACTIVE 1 RESTARTED 2 key RESYNC                 */
#if CRASHES>0 || defined(HEAL)
byte sh[3], wt[3], qt[3], got[3], avb[3], apb[3], aex[3], alive[3], ash[3], asl[3];
byte cp[3];              /* version copied over a higher promise: it counts for nobody (qcas.pml) */
byte crashes;
#define SHADOW(m) (sh[m]>0)
#ifdef BUG_COPY
#define COPY(m) 0
#else
#define COPY(m) (cp[m]!=0)
#endif
#define ACCEPTED(m) cp[m]=0;
#define SYM_RESTART(A,R) A(sh) A(wt) A(qt) A(avb) A(apb) A(aex) A(alive) A(ash) A(asl) A(cp) R(got)
#else
#define SHADOW(m) 0
#define COPY(m) 0
#define ACCEPTED(m)
#define SYM_RESTART(A,R)
#endif
#ifdef BUG_LATE
#define PROMISED(m)
#define TICK_PROMISE(m)
#define SYM_PROMISE(A)
#else
byte pa[3];              /* ticks since the promise of the update that is promised  */
#define PROMISED(m) pa[m]=0;
#define TICK_PROMISE(m) if :: pb[m]>=4 && pb[m]!=vb[m] && pb[m]!=RB -> if :: pa[m]<L -> pa[m]++ :: else fi :: else -> pa[m]=0 fi;
#define SYM_PROMISE(A) A(pa)
#endif
#if defined(BUG_LATE) || defined(BUG_COUNTALL)
#define COUNTED(o,m)
#define COUNTS(o,m) 1
#define SYM_COUNTED(S)
#else
byte prm[7];             /* masters whose promise was counted: only their acks count */
#define COUNTED(o,m) prm[o]=prm[o]|BIT(m);
#define COUNTS(o,m) (o==2 || HAS(prm[o],m))
#define SYM_COUNTED(S) S(prm[4]) S(prm[6])
#endif
#define SYM_ALL(A,S,R) A(vb) A(pb) A(ex) A(sl) A(st) SYM_RESTART(A,R) SYM_PROMISE(A) SYM_COUNTED(S) S(ack[2]) S(ack[4]) S(ack[6]) S(xack) S(rack) SYM_READ(S)
#include "symmetry.pml"

#define VAL(m)   wr[vb[m]]
#define LIVE(m)  (st[m]==0 && ex[m]>0)
#define GRANTS(m) (st[m]==0 && ex[m]==0 && !SHADOW(m))
#define FREE2    ((GRANTS(0)->1:0)+(GRANTS(1)->1:0)+(GRANTS(2)->1:0)>=2)
#define LIVE2    ((LIVE(0)->1:0)+(LIVE(1)->1:0)+(LIVE(2)->1:0)>=2)
#define GONE(m)  PROMISED(m) ex[m]=0; vb[m]=0; pb[m]=0; ACCEPTED(m)
#define ANC(v,a) ((v)==(a) || par[v]==(a) || par[par[v]]==(a) || par[par[par[v]]]==(a))   /* a is v or came before it */

#ifdef BUG_SHORT
#define LONGEST(o,m)
#elif defined(BUG_SHORTEST)
#define LONGEST(o,m) if :: rem[o]==0 || ex[m]<rem[o] -> rem[o]=ex[m] :: else fi;
#else
#define LONGEST(o,m) MAX(rem[o],ex[m]);
#endif
#ifdef BUG_OUTLAST
#define OUTLASTS(o,m) 0
#elif defined(BUG_LATE)
#define OUTLASTS(o,m) (rem[o]>0 && ex[m]>rem[o])
#else
#define OUTLASTS(o,m) (rem[o]>0 && pb[m]==o && ex[m]+pa[m]>rem[o])
#endif
#ifdef TTL
#define PROLONG(m) MAX(ex[m],L);
#else
#define PROLONG(m)
#endif
#ifdef BUG_STALEREL
#define GUARDED(m) 0
#else
#define GUARDED(m) (pb[m]!=rg)
#endif
#ifdef BUG_EXTANY
#define SAME_VALUE(m) 1
#else
#define SAME_VALUE(m) (xv==VAL(m))
#endif

/* somebody is told that the value is v, and of b ticks */
#define TOLD(v) if :: ANC(v,cur) -> cur=v :: else -> assert(ANC(cur,v)) fi;    /* I3 */
#define BELIEVE(b) MAX(bel,b); assert(bel==0 || !relok);

/* ------------------------------ UPDATE --------------------------------------------------- */
#define END(o,how) as[o]=how; att[o]=0; ack[o]=0; lst[o]=0; base[o]=0;
#define COUNT(o,m) ack[o]=ack[o]|BIT(m);
#define WRITE(o,v,p) wr[o]=v; if :: v==o -> par[o]=p :: else fi; as[o]=2; ack[o]=0; base[o]=0; lst[o]=9;
#define UPDATE(o) \
 :: d_step { as[o]==0 -> as[o]=1; att[o]=TATT; printf("[%d] UPDATE: PREPARE sent\n", o); DONE } \
 :: d_step { as[o]==1 && att[o]>0 && CNT(ack[o])>=2 -> k=wr[base[o]]; WRITE(o,o,k) k=0; \
      printf("[%d] ACCEPT sent: value %d over %d, remaining %d\n", o, o, par[o], rem[o]); DONE } \
 SUCCESS(o) \
 PREPARED(o,0) PREPARED(o,1) PREPARED(o,2) ACCEPTS(o,0) ACCEPTS(o,1) ACCEPTS(o,2)
#define SUCCESS(o) \
 :: d_step { as[o]==2 && att[o]>0 && CNT(ack[o])>=2 -> k=lst[o]; END(o,3) TOLD(wr[o]) BELIEVE(k) k=0; \
      printf("[%d] *** UPDATED: value %d, believed for %d more ticks\n", o, wr[o], bel); DONE } \
 :: d_step { as[o]==1 || as[o]==2 -> END(o,4) printf("[%d] unknown\n", o); DONE }
/* the two answers that arrive first count; of the others nothing is known */
#define PREPARED(o,m) \
 :: d_step { LIVE(m) && as[o]>0 && o>pb[m] -> pb[m]=o; PROMISED(m) printf("   master %d promises %d (version %d, %d ticks)\n", m, o, vb[m], ex[m]); DONE } \
 :: d_step { LIVE(m) && as[o]==1 && o>pb[m] && CNT(ack[o])<2 -> pb[m]=o; PROMISED(m) COUNTED(o,m) COUNT(o,m) MAX(base[o],vb[m]); LONGEST(o,m) \
      printf("   master %d promises %d (version %d, %d ticks), answer arrives\n", m, o, vb[m], ex[m]); DONE }
#define TAKE(o,m) vb[m]=o; MAX(pb[m],o); ACCEPTED(m) if :: rem[o]>0 -> MAX(ex[m],rem[o]) :: else fi; PROLONG(m)
#define TAKES(o,m) (LIVE(m) && wr[o]>0 && o>=pb[m] && o>vb[m] && !OUTLASTS(o,m))
#define ACCEPTS(o,m) \
 :: d_step { TAKES(o,m) -> TAKE(o,m) printf("   master %d accepts %d: %d ticks\n", m, o, ex[m]); DONE } \
 :: d_step { TAKES(o,m) && as[o]==2 && CNT(ack[o])<2 && COUNTS(o,m) -> TAKE(o,m) COUNT(o,m) MIN(lst[o],ex[m]); \
      printf("   master %d accepts %d: %d ticks, answer arrives\n", m, o, ex[m]); DONE }
#ifdef U2
#define UPDATE2 UPDATE(6) \
 :: d_step { as[6]==1 && att[6]>0 && CNT(ack[6])>=2 -> k=wr[base[6]]; WRITE(6,k,0) \
      if :: k==4 && as[4]==4 && !rdrop -> skip :: else -> lst[6]=0 fi; k=0; /* U1 tries again; otherwise nobody is told */ \
      printf("[6] ACCEPT sent: writes %d back, remaining %d\n", wr[6], rem[6]); DONE }
#else
#define UPDATE2
#endif
/* the local copy shows that the ballot is still the lock's: then no RELEASE with its guard was sent */
#define OWN(m,b) (LIVE(m) && vb[m]==(b) && pb[m]==(b))
#define OWNS(b)  (OWN(0,b) || OWN(1,b) || OWN(2,b))
#ifdef STICKY
#define UPDATE_S \
 :: d_step { as[2]==0 && !sr && OWNS(1) -> att[2]=TATT; WRITE(2,2,1) printf("[2] sticky ACCEPT sent: value 2 over 1\n"); DONE } \
 SUCCESS(2) ACCEPTS(2,0) ACCEPTS(2,1) ACCEPTS(2,2)
#define RELEASE_S STICKY_RELEASE(2,as[2]==3)
#else
#define UPDATE_S
#define RELEASE_S
#endif

/* ------------------------------ EXTEND --------------------------------------------------- */
#define X_END xatt=0; xack=0; xv=0; xcur=0;
#define EXTEND(v) \
 :: d_step { xn<XMAX && xatt==0 && wr[v]==v && !(rdrop && ratt>0 && ANC(rv,v)) -> xn++; xv=v; xatt=TATT; xcur=cur; xout=xout|BIT(v); \
      printf("[x] EXTEND of value %d sent\n", v); DONE }
#define EXTENDED \
 :: d_step { xatt>0 && CNT(xack)>=2 -> assert(ANC(xv,xcur)); TOLD(xv) \
      k=(L+xatt>TATT -> L+xatt-TATT : 0); BELIEVE(k) k=0; \
      printf("[x] *** EXTENDED value %d, believed for %d more ticks\n", xv, bel); X_END DONE }
#define EXTENDS(m) \
 :: d_step { LIVE(m) && ((HAS(xout,VAL(m)) && ex[m]<L) || (xatt>0 && SAME_VALUE(m) && !COPY(m) && !HAS(xack,m))) -> MAX(ex[m],L); \
      if :: xatt>0 && SAME_VALUE(m) && !COPY(m) -> xack=xack|BIT(m) :: else fi; \
      printf("   master %d extends value %d\n", m, VAL(m)); DONE }

/* ------------------------------ RELEASE -------------------------------------------------- */
#define R_END rph=0; rv=0; rg=0; ratt=0; rack=0; rbest=0; rsame=0; rdrop=0;
#define STOP(o,v) if :: (as[o]==1 || as[o]==2) && wr[o]>0 && ANC(v,wr[o]) -> END(o,4) :: else fi;
/* the clients of v stop believing; they want to hear of nothing else */
#define LET_GO(v) rv=v; rn++; ratt=TATT; \
      if :: ANC(v,cur) -> bel=0; rdrop=1; STOP(2,v) STOP(4,v) STOP(6,v) if :: xatt>0 && ANC(v,xv) -> X_END :: else fi :: else fi;
#define STICKY_RELEASE(b,done) \
 :: d_step { rn<RMAX && rph==0 && (done) && OWNS(b) -> LET_GO(wr[b]) rph=2; rg=b; if :: b==1 -> sr=1 :: else fi; \
      printf("[r] RELEASE of value %d sent, guard %d\n", rv, b); DONE }
#define PREPARED_RELEASE(v) \
 :: d_step { rn<RMAX && rph==0 && !rprep && wr[v]==v -> LET_GO(v) rph=1; rprep=1; printf("[r] RELEASE of value %d: PREPARE(%d) sent\n", v, RB); DONE }
#define R_PROMISES(m) \
 :: d_step { LIVE(m) && rprep && RB>pb[m] -> pb[m]=RB; printf("   master %d promises %d\n", m, RB); DONE } \
 :: d_step { LIVE(m) && rph==1 && RB>pb[m] && CNT(rack)<2 -> pb[m]=RB; rack=rack|BIT(m); \
      if :: vb[m]>rbest -> rbest=vb[m]; rsame=1 :: else -> if :: vb[m]==rbest -> rsame++ :: else fi fi; \
      printf("   master %d promises %d (version %d), answer arrives\n", m, RB, vb[m]); DONE }
#define RELEASES \
 R_PROMISES(0) R_PROMISES(1) R_PROMISES(2) R_LANDS(0) R_LANDS(1) R_LANDS(2) \
 :: d_step { rph==1 && ratt>0 && CNT(rack)>=2 && wr[rbest]==rv && rsame==2 -> rph=2; rg=RB; ratt=TATT; rack=0; rbest=0; rsame=0; \
      printf("[r] RELEASE of value %d sent, guard %d\n", rv, RB); DONE } \
 :: d_step { rph==1 -> printf("[r] ends without a RELEASE\n"); R_END DONE } \
 :: d_step { rph==2 && ratt>0 && CNT(rack)>=2 -> relok=1; printf("[r] RELEASED: OK\n"); assert(bel==0); R_END DONE }
#ifdef BUG_SHADOWACK
#define BLIND(m) 0
#else
#define BLIND(m) SHADOW(m)
#endif
#ifdef BUG_RESEND
#define R_OUT 1
#define R_TIMEOUT rack=0; if :: rph==1 -> R_END :: else rdrop=0 fi
#else
#define R_OUT (ratt>0)
#define R_TIMEOUT R_END
#endif
#define R_LANDS(m) \
 :: d_step { st[m]!=1 && rph==2 && R_OUT && !HAS(rack,m) && !(ex[m]>0 && GUARDED(m)) && !BLIND(m) -> \
      printf("   master %d processes RELEASE (guard %d): had version %d\n", m, rg, vb[m]); \
      END_HEAL(m) GONE(m) sl[m]=1; rack=rack|BIT(m); DONE } \
 :: d_step { st[m]==0 && relok && ex[m]>0 -> GONE(m) printf("   master %d: what is left is released\n", m); DONE }

/* ------------------------------ READ ----------------------------------------------------- */
#ifdef READER
#define RD_END rd=0; rdt=0; rmask=0; rver=0; rcur=0;
#define READS(m) \
 :: d_step { rd==1 && LIVE(m) && !COPY(m) && !HAS(rmask,m) && (rmask==0 || rver==vb[m]) -> rmask=rmask|BIT(m); rver=vb[m]; \
      printf("   master %d answers read: version %d\n", m, vb[m]); DONE }
#define READ \
 :: d_step { rd==0 -> rd=1; rdt=TATT; rcur=cur; printf("read starts\n"); DONE } \
 READS(0) READS(1) READS(2) \
 :: d_step { rd==1 && rdt>0 && CNT(rmask)>=2 -> printf("read returns value %d\n", wr[rver]); assert(ANC(wr[rver],rcur)); k=wr[rver]; TOLD(k) k=0; RD_END DONE } \
 :: d_step { rd==1 -> RD_END DONE }
#define TICK_READ if :: rdt>0 -> rdt--; if :: rdt==0 -> RD_END :: else fi :: else fi;
#else
#define READ
#define TICK_READ
#endif

/* ------------------------------ restart, key RESYNC -------------------------------------- */
#if CRASHES>0 || defined(HEAL)
#define CLR(m) wt[m]=0; qt[m]=0; got[m]=0; avb[m]=0; apb[m]=0; aex[m]=0; alive[m]=0; ash[m]=0; asl[m]=0;
#define END_HEAL(m) if :: st[m]==2 -> st[m]=0; CLR(m) :: else fi;
#define REPORT(m,p) if :: ex[p]>0 -> alive[m]++; MAX(avb[m],vb[p]); MAX(apb[m],pb[p]); MAX(aex[m],ex[p]) :: else fi; \
      MAX(ash[m],sh[p]); if :: sl[p] -> asl[m]=1 :: else fi; got[m]=got[m]|BIT(p); \
      printf("   master %d reads state of %d: version %d, %d ticks\n", m, p, vb[p], ex[p]);
#define COME_BACK(m) vb[m]=avb[m]; pb[m]=apb[m]; ex[m]=aex[m]; cp[m]=(pb[m]>vb[m] -> 1 : 0); sh[m]=0; sl[m]=1;
#define TICK_RESTART(m) \
      DEC(sh[m]); DEC(wt[m]); DEC(qt[m]); DEC(ash[m]); DEC(aex[m]);
#else
#define END_HEAL(m)
#define TICK_RESTART(m)
#endif
#if CRASHES>0
#define RESTART(m,p,q) \
 :: d_step { crashes<CRASHES && st[m]!=1 -> crashes++; GONE(m) CLR(m) sh[m]=0; sl[m]=0; st[m]=1; wt[m]=TWAIT; qt[m]=DQ; \
      printf("   master %d CRASHES and restarts empty\n", m); DONE } \
 SYNC(m,p) SYNC(m,q) \
 :: d_step { st[m]==1 && CNT(got[m])==2 -> if :: alive[m]==2 && aex[m]>0 -> COME_BACK(m) \
                                             :: else -> sh[m]=(aex[m]>ash[m] -> aex[m] : ash[m]); sl[m]=asl[m] fi; \
      st[m]=0; CLR(m) printf("   master %d ACTIVE: version %d, shadow %d\n", m, vb[m], sh[m]); DONE } \
 :: d_step { st[m]==1 && wt[m]==0 && qt[m]==0 -> sl[m]=1; st[m]=0; CLR(m) printf("   master %d ACTIVE after quarantine\n", m); DONE }
#define SYNC(m,p) \
 :: d_step { st[m]==1 && wt[m]==0 && st[p]!=1 && !HAS(got[m],p) -> REPORT(m,p) DONE }
#else
#define RESTART(m,p,q)
#endif
#ifdef HEAL
#define HEALM(m,p,q) \
 :: d_step { st[m]==0 && ex[m]==0 -> st[m]=2; wt[m]=TWAIT; printf("   master %d: key RESYNC begins\n", m); DONE } \
 HEALASK(m,p) HEALASK(m,q) \
 :: d_step { st[m]==2 && alive[m]==2 && aex[m]>0 -> COME_BACK(m) st[m]=0; CLR(m) printf("   master %d is healed: version %d, %d ticks\n", m, vb[m], ex[m]); DONE } \
 :: d_step { st[m]==2 -> st[m]=0; CLR(m) printf("   master %d gives its key RESYNC up\n", m); DONE }
#define HEALASK(m,p) \
 :: d_step { st[m]==2 && wt[m]==0 && LIVE(p) && !HAS(got[m],p) -> REPORT(m,p) DONE }
#else
#define HEALM(m,p,q)
#endif

#define TICK_OP(o) DEC(lst[o]); if :: att[o]>0 -> att[o]--; if :: att[o]==0 -> END(o,4) :: else fi :: else fi;
#define MASTER(m,p,q) \
 EXTENDS(m) RESTART(m,p,q) HEALM(m,p,q) \
 :: d_step { st[m]==0 && ex[m]==0 && !SHADOW(m) && !sl[m] -> vb[m]=1; pb[m]=1; ex[m]=L; sl[m]=1; printf("   master %d accepts TRYLOCK\n", m); DONE }

active proctype System() {
 d_step { vb[0]=1; vb[1]=1; pb[0]=1; pb[1]=1; ex[0]=L; ex[1]=L; sl[0]=1; sl[1]=1; wr[1]=1;
      printf("[l] *** LOCKED: masters 0 and 1 have version 1, believed for %d ticks\n", L); DONE }
end:
 do
 MASTER(0,1,2) MASTER(1,0,2) MASTER(2,0,1)
 UPDATE(4)
 UPDATE2
 UPDATE_S
 EXTEND(1) EXTEND(2) EXTEND(4) EXTEND(6) EXTENDED
 STICKY_RELEASE(1,as[2]==0) STICKY_RELEASE(4,as[4]==3) RELEASE_S
 PREPARED_RELEASE(1) PREPARED_RELEASE(2) PREPARED_RELEASE(4) PREPARED_RELEASE(6)
 RELEASES
 READ
 :: d_step { bel>0 && FREE2 -> printf("!!! believed for %d more ticks, and a majority is free\n", bel); assert(0) }   /* H */
 :: d_step { relok && LIVE2 -> printf("!!! released instance is LIVE on a majority again\n"); assert(0) }           /* I4 */
 :: d_step { printf("---------------------------------------------- tick\n"); DEC(bel);
      k=0; do :: k<3 -> if :: ex[k]>0 -> ex[k]--; if :: ex[k]==0 -> GONE(k) :: else fi :: else fi; TICK_PROMISE(k) TICK_RESTART(k) k++ :: else -> break od; k=0;
      TICK_OP(2) TICK_OP(4) TICK_OP(6)
      if :: xatt>0 -> xatt--; if :: xatt==0 -> X_END :: else fi :: else fi;
      if :: ratt>0 -> ratt--; if :: ratt==0 -> R_TIMEOUT :: else fi :: else fi;
      TICK_READ
      DONE }
 od
}
