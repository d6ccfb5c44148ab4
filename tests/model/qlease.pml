/*
 * qlease.pml - one key of the proposed quorum lease protocol (see src/core/protocol.md)
 *
 *   3 masters; P lock attempts (uid == ballot n == fencing token == 1..P, startable in ANY
 *   order, i.e. skewed hybrid clocks); one EXTEND round for attempts 1..NEXT;
 *   RELEASE/ABORT; master crash with total memory loss followed by RESYNC; coordinator
 *   crash or pause (every action may be taken arbitrarily late or never).
 *
 * Network: a request, once sent, can be processed by any subset of the masters, in any
 *   order, any number of times, at any later moment (loss, duplication, reordering,
 *   unbounded delay).  Acks likewise; acks of a crashed incarnation can still arrive.
 *
 * Time: one global tick, every timer is a countdown.  The holder's lease runs from the
 *   moment the request was SENT, the master's from the moment it was ACCEPTED.
 *   Clock drift is the arithmetic DA >= L, DQ >= L, TWAIT >= TATT (here equal: tight).
 *
 * -DQUERY (protocol.md 2.11, off by default): a grant is a promise until CONFIRM or EXTEND; a
 *   master may ask its peers with a sealing read and delete its promise.  The two answers are
 *   collected one at a time, stay usable for ever (the peer may vote, crash, restart, resync in
 *   between), the coordinator may be silent at any time.  Deliberately weaker than the text: an
 *   entry made LIVE by RESYNC counts as an unconfirmed one that may be asked about at once.
 *   -DQSTRICT also asserts the claim itself: nobody holds a deleted uid, then or later.
 *
 * Mutations, each of which must yield a counterexample - see run_all.sh.
 */
#ifndef P
#define P 2
#endif
#ifndef L
#define L 2              /* holder lease (ticks)                          */
#endif
#ifndef DA
#define DA L             /* master lease                                  */
#endif
#ifndef TATT
#define TATT 1           /* attempt deadline                              */
#endif
#ifndef TWAIT
#define TWAIT TATT       /* restart wait before peers are asked           */
#endif
#ifndef DQ
#define DQ L             /* quarantine when peers cannot be asked         */
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef NEXT
#define NEXT 1
#endif

#define BIT(x)   (1<<(x))
#define HAS(v,x) (((v)>>(x))&1)
#define CNT(v)   (((v)&1)+(((v)>>1)&1)+(((v)>>2)&1))

/* ---- masters 0..2 ---- */
byte rec[3];     /* LIVE uid, 0 = none                      */
byte ex[3];      /* its remaining life                      */
byte sh[3];      /* SHADOW: no grants for that long         */
byte mx[3];      /* floor: highest ballot accepted, refused or released */
byte st[3];      /* 0 ACTIVE  1 RESYNC                      */
byte wt[3], qt[3];
byte ceil_[3];   /* the tiny persisted ceiling              */
byte got[3], arec[3], aex[3], ash[3], amx[3];
byte crashes;
/* ---- attempts 1..P (index 0 unused) ---- */
byte as[P+1];    /* 0 idle 1 trying 2 held 3 over           */
byte bel[P+1];   /* remaining belief                        */
byte att[P+1];   /* remaining attempt window                */
byte ack[P+1];   /* masters whose TRYLOCK ack is out there  */
byte ratt[P+1], rack[P+1]; bit relok[P+1];
byte xst[P+1], xatt[P+1], xbel[P+1], xack[P+1];
byte maxtok;     /* highest token ever activated            */
byte k, r;       /* scratch, always 0 between steps         */

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
#ifdef BUG_NOSEAL
#define SEAL(m,i)
#define CANREL(m,i)  (rec[m]==i || (ratt[i]>0 && !HAS(rack[i],m)))
#else
#define SEAL(m,i)    if :: i>mx[m] -> mx[m]=i :: else fi; if :: i>ceil_[m] -> ceil_[m]=i :: else fi;
#define CANREL(m,i)  (rec[m]==i || i>mx[m] || (ratt[i]>0 && !HAS(rack[i],m)))
#endif
#ifdef BUG_RELKEY
#define RELMATCH(m,i) (rec[m]!=0)
#undef  CANREL
#define CANREL(m,i)   (rec[m]!=0)
#else
#define RELMATCH(m,i) (rec[m]==i)
#endif
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
#define COVER(m) if :: mx[m]>ceil_[m] -> ceil_[m]=mx[m] :: else fi;
#endif
#ifdef BUG_EXTINST
#define XHAS(m,i) (rec[m]==i || (rec[m]==0 && sh[m]==0))
#else
#define XHAS(m,i) (rec[m]==i)
#endif
#ifdef BUG_NORESYNC
#define AFTER_CRASH(m) mx[m]=ceil_[m];
#else
#define AFTER_CRASH(m) st[m]=1; wt[m]=TWAIT; qt[m]=DQ;
#endif
#ifdef BUG_UNION
#define AGREE(m,r) (arec[m]==0 || rec[r]==0 || rec[r]==arec[m])   /* one witness is enough */
#else
#define AGREE(m,r) (rec[r]==arec[m])
#endif
#ifdef BUG_EXPEARLY
#define EXPDEC(k) ex[k]=0
#else
#define EXPDEC(k) ex[k]--
#endif

#define HELD(i)   (as[i]==2 && bel[i]>0)
#define LIVE(m,i) (st[m]==0 && rec[m]==(i))
#define NLIVE(i)  ((LIVE(0,i)->1:0)+(LIVE(1,i)->1:0)+(LIVE(2,i)->1:0))
#define GHOST(i)  (relok[i] && NLIVE(i)>=2)
#if P>2
#define ANYGHOST  (GHOST(1) || GHOST(2) || GHOST(3))
#define OTHER(i)  ((i!=1 && HELD(1)) || (i!=2 && HELD(2)) || (i!=3 && HELD(3)))
#else
#define ANYGHOST  (GHOST(1) || GHOST(2))
#define OTHER(i)  ((i!=1 && HELD(1)) || (i!=2 && HELD(2)))
#endif


/* ------------------------------ promises (2.11), only with -DQUERY --------------------- */
#ifdef QUERY
#ifndef TPROM
#define TPROM 2          /* age at which a promise may be asked about; > TATT */
#endif
#ifndef QM
#define QM 3             /* masters 0..QM-1 may ask                       */
#endif
bit  un[3];              /* the LIVE entry is unconfirmed                 */
byte up[3];              /* ticks until it may be asked about             */
byte qa[3];              /* peers whose sealed "not here" has been collected */
bit  okd[P+1];           /* OK was answered: CONFIRM may arrive any time  */
#define PROMISE(m)   un[m]=1; up[m]=TPROM; qa[m]=0;
#define MERGED(m)    if :: rec[m]!=0 -> un[m]=1; up[m]=0; qa[m]=0 :: else fi;
#define FORGET(m)    un[m]=0; up[m]=0; qa[m]=0;
#define OKD(i)       okd[i]=1;
#define AGE(m)       DEC(up[m]);
#ifdef BUG_QEXT
#define CONF_X(m)                      /* EXTEND neither confirms nor cancels */
#else
#define CONF_X(m)    FORGET(m)
#endif
#ifdef BUG_QCONF
#define CONFIRM(m,i)                   /* deletable although confirmed    */
#else
#define CONFIRM(m,i) \
 :: d_step { okd[i] && st[m]==0 && rec[m]==i && un[m] -> FORGET(m) \
      printf("   master %d gets CONFIRM of %d\n", m, i) }
#endif
#ifdef BUG_QNOSEAL
#define QSEAL(p,i)
#else
#define QSEAL(p,i)   if :: i>mx[p] -> mx[p]=i :: else fi; if :: i>ceil_[p] -> ceil_[p]=i :: else fi;
#endif
#ifdef BUG_QRESYNC
#define QUP(p)       1
#else
#define QUP(p)       (st[p]==0)
#endif
#ifdef BUG_QSHADOW
#define QSH(p)       1
#else
#define QSH(p)       (sh[p]==0)
#endif
#ifdef BUG_QONE
#define QBLK         1
#else
#define QBLK         2
#endif
#ifdef BUG_QFLOOR
#define QKEEP(m)     mx[m]=0;          /* the deletion forgets maxn       */
#else
#define QKEEP(m)
#endif
#ifdef QSTRICT
byte dl;                 /* uids deleted somewhere by a query             */
#define QGONE(i)     assert(!HELD(i)); dl=dl|BIT(i);
#define QCHK(i)      if :: bel[i]>0 -> assert(!HAS(dl,i)) :: else fi;
#else
#define QGONE(i)
#define QCHK(i)
#endif
/* TRYLOCK seen again by a master that got the entry through RESYNC: it acks again */
#define REACK(m,i) \
 :: d_step { st[m]==0 && as[i]==1 && att[i]>0 && rec[m]==i && !HAS(ack[i],m) -> ack[i]=ack[i]|BIT(m); \
      printf("   master %d acks TRYLOCK of %d again\n", m, i) }
#define ASK(m,p) \
 :: d_step { m<QM && st[m]==0 && rec[m]!=0 && un[m] && up[m]==0 && !HAS(qa[m],p) && QUP(p) && QSH(p) && rec[p]!=rec[m] -> \
      QSEAL(p,rec[m]) qa[m]=qa[m]|BIT(p); \
      printf("   master %d asks %d about %d: not here (rec %d shadow %d floor %d)\n", m, p, rec[m], rec[p], sh[p], mx[p]) }
#define DELETE(m) \
 :: d_step { st[m]==0 && rec[m]!=0 && un[m] && CNT(qa[m])>=QBLK -> \
      printf("   master %d DELETES its promise of %d\n", m, rec[m]); \
      QGONE(rec[m]) rec[m]=0; ex[m]=0; QKEEP(m) FORGET(m) }
#else
#define PROMISE(m)
#define MERGED(m)
#define FORGET(m)
#define OKD(i)
#define AGE(m)
#define CONF_X(m)
#define CONFIRM(m,i)
#define QCHK(i)
#define REACK(m,i)
#endif

#ifdef READER
/* one client issuing quorum reads, one after the other (checks I3 for reads):
 *   reply = LIVE uid | SHADOW (no information) | absent with the floor mx
 *   decide held(i)  when two masters report LIVE i
 *   decide absent   when two masters report absent with the SAME floor (READANY: any floor)  */
byte rd;               /* 0 idle 1 reading                       */
byte rdt;              /* attempt window                         */
byte rmask, rans[3], rmx[3];
byte hold;             /* attempts that held throughout the read */
byte rel0, dead0, dead, succ, succ0;
#ifdef READANY
#define SAMEFLOOR(a,b) 1
#else
#define SAMEFLOOR(a,b) (rmx[a]==rmx[b])
#endif
#define RRESET rd=0; rdt=0; rmask=0; rans[0]=0; rans[1]=0; rans[2]=0; rmx[0]=0; rmx[1]=0; rmx[2]=0; hold=0; rel0=0; dead0=0; succ0=0;
#define R_REPLY(m) :: d_step { rd==1 && st[m]==0 && sh[m]==0 && !HAS(rmask,m) -> rmask=rmask|BIT(m); rans[m]=rec[m]; \
      if :: rec[m]==0 -> rmx[m]=mx[m] :: else fi; printf("   master %d answers read: rec %d floor %d\n", m, rec[m], mx[m]) }
#define R_DECIDE(a,b) :: d_step { rd==1 && rdt>0 && HAS(rmask,a) && HAS(rmask,b) && rans[a]==rans[b] && (rans[a]!=0 || SAMEFLOOR(a,b)) -> \
      if :: rans[a]==0 -> printf("read returns absent\n"); assert(hold==0); dead=dead|succ0 \
         :: else -> printf("read returns held(%d)\n", rans[a]); assert(!HAS(rel0,rans[a])); assert(!HAS(dead0,rans[a])) fi; \
      RRESET }
#define RHOLD(i)  if :: HELD(i) -> skip :: else -> hold = hold & (255-BIT(i)) fi
#define HELDBIT(i) (HELD(i) -> BIT(i) : 0)
#define SETSUCC(i) succ=succ|BIT(i);
#define DROPHOLD(i) hold = hold & (255-BIT(i));
#define READS \
 :: d_step { rd==0 -> rd=1; rdt=TATT; hold=HELDBIT(1)|HELDBIT(2); rel0=(relok[1]->2:0)|(relok[2]->4:0); dead0=dead; succ0=succ; printf("read starts\n") } \
 :: d_step { rd==1 -> RRESET } \
 R_REPLY(0) R_REPLY(1) R_REPLY(2) R_DECIDE(0,1) R_DECIDE(0,2) R_DECIDE(1,2)
#else
#define SETSUCC(i)
#define DROPHOLD(i)
#define READS
#endif

/* ------------------------------ coordinator of attempt i ------------------------------ */
#define COORD(i) \
 :: d_step { as[i]==0 -> as[i]=1; bel[i]=L; att[i]=TATT; printf("[%d] sends TRYLOCK\n", i) } \
 :: d_step { as[i]==1 && IN_TIME(i) && QUORUM(ack[i]) -> \
      START_BELIEF(i) as[i]=2; att[i]=0; ack[i]=0; SETSUCC(i) OKD(i) QCHK(i) \
      printf("[%d] *** quorum: HOLDS for %d more ticks\n", i, bel[i]); \
      if :: bel[i]>0 -> assert(!OTHER(i));            /* I1 mutual exclusion */ \
                        assert(i > maxtok);           /* I2 fencing          */ \
                        maxtok=i \
         :: else fi } \
 :: d_step { as[i]==1 || as[i]==2 -> printf("[%d] gives up or releases (was %d)\n", i, as[i]); \
      DROPHOLD(i) as[i]=3; bel[i]=0; att[i]=0; ack[i]=0; xatt[i]=0; xbel[i]=0; xack[i]=0; ratt[i]=TATT } \
 :: d_step { as[i]==3 && ratt[i]>0 && QUORUM(rack[i]) -> relok[i]=1; ratt[i]=0; rack[i]=0; \
      printf("[%d] release acknowledged by a majority\n", i) } \
 :: d_step { i<=NEXT && as[i]==2 && xst[i]==0 -> xst[i]=1; xatt[i]=TATT; xbel[i]=L; \
      printf("[%d] sends EXTEND\n", i) } \
 :: d_step { as[i]==2 && xatt[i]>0 && QUORUM(xack[i]) -> bel[i]=xbel[i]; xatt[i]=0; xbel[i]=0; xack[i]=0; QCHK(i) \
      printf("[%d] *** EXTENDED for %d more ticks\n", i, bel[i]); \
      if :: bel[i]>0 -> assert(!OTHER(i)) :: else fi }

/* ------------------------------ master m, request of attempt i ------------------------ */
#define MASTER(m,i) \
 :: d_step { st[m]==0 && as[i]>0 && rec[m]!=i && FREE_(m) && FRESH(m,i) -> \
      rec[m]=i; ex[m]=DA; PROMISE(m) \
      if :: as[i]==1 -> ack[i]=ack[i]|BIT(m) :: else fi; \
      if :: i>mx[m] -> mx[m]=i :: else fi; if :: i>ceil_[m] -> ceil_[m]=i :: else fi; \
      printf("   master %d accepts TRYLOCK of %d\n", m, i) } \
 :: d_step { st[m]==0 && as[i]>0 && rec[m]!=0 && rec[m]!=i && i>mx[m] -> \
      mx[m]=i; if :: i>ceil_[m] -> ceil_[m]=i :: else fi; \
      printf("   master %d refuses TRYLOCK of %d\n", m, i) } \
 :: d_step { st[m]==0 && xst[i]==1 && XHAS(m,i) && (ex[m]<DA || rec[m]==0 || (xatt[i]>0 && !HAS(xack[i],m))) -> \
      rec[m]=i; ex[m]=DA; CONF_X(m) if :: xatt[i]>0 -> xack[i]=xack[i]|BIT(m) :: else fi; \
      printf("   master %d extends %d\n", m, i) } \
 :: d_step { st[m]==0 && as[i]==3 && CANREL(m,i) -> SEAL(m,i) \
      if :: RELMATCH(m,i) -> rec[m]=0; ex[m]=0; FORGET(m) :: else fi; \
      if :: ratt[i]>0 -> rack[i]=rack[i]|BIT(m) :: else fi; \
      printf("   master %d processes RELEASE/ABORT of %d\n", m, i) } \
 CONFIRM(m,i) REACK(m,i)

#define CLR(m) got[m]=0; arec[m]=0; aex[m]=0; ash[m]=0; amx[m]=0; wt[m]=0; qt[m]=0;

/* restarted master m asks peer p; first and second report arrive at different times */
#define SYNC(m,p) \
 :: d_step { st[m]==1 && wt[m]==0 && st[p]==0 && !HAS(got[m],p) -> \
      printf("   master %d reads state of %d: rec %d shadow %d\n", m, p, rec[p], sh[p]); \
      if :: mx[p]>amx[m] -> amx[m]=mx[p] :: else fi; \
      if :: sh[p]>ash[m] -> ash[m]=sh[p] :: else fi; \
      r=p; \
      if :: got[m]==0 -> arec[m]=rec[p]; aex[m]=ex[p]; got[m]=BIT(p) \
         :: else -> \
            if :: ex[p]>aex[m] -> aex[m]=ex[p] :: else fi; \
            if :: AGREE(m,p) -> if :: arec[m]==0 -> arec[m]=rec[p] :: else fi; \
                  if :: arec[m]!=0 -> rec[m]=arec[m]; ex[m]=aex[m]; sh[m]=0 \
                     :: else -> sh[m]=ash[m]; \
                        if :: aex[m]>sh[m] -> sh[m]=aex[m] :: else fi fi \
               :: else -> sh[m]=ash[m]; if :: aex[m]>sh[m] -> sh[m]=aex[m] :: else fi fi; \
            mx[m]=FLOOR_R(m); COVER(m) st[m]=0; CLR(m) MERGED(m) \
            printf("   master %d ACTIVE: rec %d shadow %d floor %d\n", m, rec[m], sh[m], mx[m]) fi; \
      r=0 }

#define FAULT(m) \
 :: d_step { crashes<CRASHES && st[m]==0 -> crashes++; \
      rec[m]=0; ex[m]=0; sh[m]=0; mx[m]=0; FORGET(m) AFTER_CRASH(m) \
      printf("   master %d CRASHES and restarts empty\n", m) } \
 :: d_step { st[m]==1 && qt[m]==0 && wt[m]==0 -> mx[m]=FLOOR_Q(m); st[m]=0; CLR(m) \
      printf("   master %d ACTIVE after quarantine, floor %d\n", m, mx[m]) }

#define DEC(v) if :: v>0 -> v-- :: else fi

active proctype System() {
end:
 do
 READS
 COORD(1)
 MASTER(0,1) MASTER(1,1) MASTER(2,1)
#if P>1 && !defined(ONLY1)
 COORD(2)
 MASTER(0,2) MASTER(1,2) MASTER(2,2)
#endif
#if P>2
 COORD(3)
 MASTER(0,3) MASTER(1,3) MASTER(2,3)
#endif
#if CRASHES>0
 FAULT(0) FAULT(1) FAULT(2)
 SYNC(0,1) SYNC(0,2) SYNC(1,0) SYNC(1,2) SYNC(2,0) SYNC(2,1)
#endif
#ifdef QUERY
 ASK(0,1) ASK(0,2) ASK(1,0) ASK(1,2) ASK(2,0) ASK(2,1)
 DELETE(0) DELETE(1) DELETE(2)
#endif
#ifndef NO_I4
 :: d_step { ANYGHOST -> printf("!!! released instance is LIVE on a majority again\n"); assert(0) }   /* I4 */
#endif
 :: d_step {
      printf("---------------------------------------------- tick\n");
      k=0;
      do :: k<3 ->
           if :: ex[k]>0 -> EXPDEC(k); if :: ex[k]==0 -> rec[k]=0; FORGET(k) :: else fi :: else fi;
           AGE(k)
           DEC(sh[k]); DEC(wt[k]); DEC(qt[k]); DEC(aex[k]); DEC(ash[k]); k++
         :: else -> break od;
      k=1;
      do :: k<=P -> DEC(bel[k]); DEC(att[k]);
           if :: ratt[k]>0 -> ratt[k]--; if :: ratt[k]==0 -> rack[k]=0 :: else fi :: else fi;
           if :: xatt[k]>0 -> xatt[k]--; if :: xatt[k]==0 -> xack[k]=0; xbel[k]=0 :: else -> DEC(xbel[k]) fi :: else fi; k++
         :: else -> break od;
      k=0;
#ifdef READER
      RHOLD(1); RHOLD(2);
      if :: rdt>0 -> rdt--; if :: rdt==0 -> RRESET :: else fi :: else fi;
#endif
      skip }
 od
}
