/*
 * promise.pml - a grant is a promise until somebody confirms it, and promises that nobody confirms
 *   are deleted (protocol.md 2.11).  Included by qlease.pml and qadopt.pml.
 *
 * -DQUERY: a master asks its peers with a read that seals.  The two answers are collected one at a time and
 * stay usable for ever (the peer may vote, crash, restart, heal in between); the coordinator may be
 * silent at any time.  Weaker than the text: a promise may be asked about at once (TPROM=0), and
 * CONFIRM may come of any attempt that was ever sent, or never.
 * un[m] == 2: confirmed, but doubted, because a RELEASE was refused (PROMISED); it is asked about
 * like a promise.  -DQSTRICT also asserts the claim itself: nobody holds a deleted uid, then or later.
 */
/* TRYLOCK seen again by a master that got the entry through a merge: it acks again */
#define REACK(m,i) \
 :: d_step { st[m]==0 && as[i]==1 && att[i]>0 && rec[m]==i && !HAS(ack[i],m) -> ack[i]=ack[i]|BIT(m); \
      printf("   master %d acks TRYLOCK of %d again\n", m, i); DONE }
#if defined(QUERY) || defined(PROMISES)
#define PROMISE(m)   un[m]=1; DROP(m) YOUNG(m)
#define FORGET(m)    DROP(m) if :: rec[m]==0 -> un[m]=0 :: else fi;
#define REMEMBER(m)  DROP(m)
#ifdef BUG_QEXT
#define CONFIRMED(m)                   /* EXTEND neither confirms nor drops the answers */
#else
#define CONFIRMED(m) un[m]=0; DROP(m)
#endif
#define CONFIRM(m,i) \
 :: d_step { as[i]>0 && st[m]==0 && rec[m]==i && un[m] -> un[m]=0; DROP(m) \
      printf("   master %d gets CONFIRM of %d\n", m, i); DONE }
#else
#define PROMISE(m)
#define FORGET(m)
#define REMEMBER(m)
#define CONFIRMED(m)
#define CONFIRM(m,i)
#endif

#ifdef QUERY
byte qa[3];              /* peers whose sealed "not here" has been collected */
#define DROP(m)      qa[m]=0;
#ifndef QM
#define QM 3             /* masters 0..QM-1 may ask                       */
#endif
#ifndef TPROM
#define TPROM 0          /* age at which a promise may be asked about     */
#endif
#if TPROM>0
byte up[3];              /* ticks until it may be asked about             */
#define YOUNG(m)     up[m]=TPROM;
#define ASKABLE(m)   (up[m]==0)
#define AGE(m)       DEC(up[m]);
#define SYM_AGE(A)   A(up)
#else
#define YOUNG(m)
#define ASKABLE(m)   1
#define AGE(m)
#define SYM_AGE(A)
#endif
#ifndef PROBE_SEAL
#define PROBE_SEAL(p,i) MAX(mx[p],i); MAX(ceil_[p],i);
#endif
#ifdef BUG_QNOSEAL
#define QSEAL(p,i)
#else
#define QSEAL(p,i)   PROBE_SEAL(p,i)
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
#define ASK(m,p) \
 :: d_step { m<QM && st[m]==0 && rec[m]!=0 && un[m] && ASKABLE(m) && !HAS(qa[m],p) && QUP(p) && QSH(p) && rec[p]!=rec[m] -> \
      QSEAL(p,rec[m]) qa[m]=qa[m]|BIT(p); \
      printf("   master %d asks %d about %d: not here (rec %d shadow %d floor %d)\n", m, p, rec[m], rec[p], sh[p], mx[p]); DONE }
#define DELETE(m) \
 :: d_step { st[m]==0 && rec[m]!=0 && un[m] && CNT(qa[m])>=QBLK -> \
      printf("   master %d DELETES its promise of %d\n", m, rec[m]); \
      QGONE(rec[m]) GONE(m) QKEEP(m) DONE }
#define SYM_PROMISES(A,R) R(qa) SYM_AGE(A)
#define ASKING ASK(0,1) ASK(0,2) ASK(1,0) ASK(1,2) ASK(2,0) ASK(2,1) DELETE(0) DELETE(1) DELETE(2)
#else
#define DROP(m)
#define YOUNG(m)
#define AGE(m)
#define QCHK(i)
#define ASKING
#define SYM_PROMISES(A,R)
#endif
