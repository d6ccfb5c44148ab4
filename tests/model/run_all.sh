#!/usr/bin/env bash
# Re-check the models behind src/core/protocol.md with spin; one core, one scope at a time.
# usage: run_all.sh            everything but the large scopes; writes results.txt and traces/
#        run_all.sh --quick    the smallest scope of each model and some mutations: 2 minutes
#        run_all.sh --large    the large scopes, hours, 14 GB; writes results_large.txt
#        run_all.sh LABEL...   only these scopes
# Exit status: 0 when every line is as expected, 1 when one is not, 3 when spin or gcc is missing.
#
# The table below: set (q quick and full, f full, l large), what is expected (ok: exhaustive, no
# violation, masters taken as interchangeable (-DSYM); OK: the same without -DSYM; bad: a
# counterexample), label, model, flags; +HC4: states are stored as 64-bit hashes, for want of memory.
set -u
cd "$(dirname "$(readlink -f "$0")")" || exit 3
table() {
	cat <<'END'
== the seed's rules (seed.pml): safe only when nothing ever goes wrong
q OK  seed_nofault     seed
f OK  seed_ext_nofault seed   -DEXT
q bad seed_slow_coord  seed   -DSLOW
f bad seed_delay       seed   -DDELAY
f bad seed_loss        seed   -DLOSS
q bad seed_1restart    seed   -DCRASH=1
f bad seed_expearly    seed   -DEXPEARLY
== lock, extend, release (qlease.pml): I1 I2 I4 I5; 2 attempts where nothing else is said
q ok  lease_c0         qlease
f OK  lease_c0_nosym   qlease
q ok  lease_c1         qlease -DCRASHES=1
f OK  lease_c1_nosym   qlease -DCRASHES=1
f ok  lease_c2         qlease -DCRASHES=2
f ok  lease_c1_drift   qlease -DCRASHES=1 -DDA=3 -DDQ=3
f ok  lease_c1_L3      qlease -DCRASHES=1 -DL=3
f ok  lease_c1_TATT2   qlease -DCRASHES=1 -DTATT=2
f ok  lease_p3_c0      qlease -DP=3
== higher floors after a merge, a fold or a clean restart (-DRAISE)
q ok  raise_c1         qlease -DCRASHES=1 -DRAISE
f ok  raise_c2         qlease -DCRASHES=2 -DRAISE
== key RESYNC (-DHEAL)
q ok  heal_c0          qlease -DHEAL
f OK  heal_c0_nosym    qlease -DHEAL
f ok  heal_c1          qlease -DHEAL -DCRASHES=1
f ok  heal_raise_c1    qlease -DHEAL -DCRASHES=1 -DRAISE
== promises and their deletion (-DQUERY, protocol.md 2.11); QSTRICT: nobody holds a deleted uid
q ok  q_c0             qlease -DQUERY -DQSTRICT
f ok  q_c0_prom2       qlease -DQUERY -DQSTRICT -DTPROM=2 -DL=3
f ok  q_c1             qlease -DQUERY -DCRASHES=1
f ok  q_c1_prom2       qlease -DQUERY -DCRASHES=1 -DTPROM=2 -DL=3
f ok  q_one_c3         qlease -DP=1 -DQUERY -DQSTRICT -DCRASHES=3 -DTPROM=2 -DL=4
f ok  q_one_c3_T0      qlease -DP=1 -DQUERY -DQSTRICT -DCRASHES=3 -DL=3
f ok  q_one_heal_c2    qlease -DP=1 -DQUERY -DQSTRICT -DCRASHES=2 -DHEAL
f ok  q_heal_c0        qlease -DQUERY -DHEAL -DRAISE
== adoption, ABORT, retries, RELEASE that ends UNKNOWN (qadopt.pml)
q ok  adopt_c0         qadopt
f OK  adopt_c0_nosym   qadopt
f ok  adopt_x2         qadopt -DXMAX=2
f ok  adopt_accept     qadopt -DACCEPT
f ok  adopt_handoff    qadopt -DPREVREL
f ok  adopt_q_c0       qadopt -DQUERY -DQSTRICT
f ok  adopt_q_x2_c0    qadopt -DQUERY -DXMAX=2
f ok  adopt_c1         qadopt -DCRASHES=1
f ok  adopt_accept_c1  qadopt -DACCEPT -DCRASHES=1
f ok  adopt_heal_c0    qadopt -DHEAL
f ok  adopt_raise_c0   qadopt -DRAISE -DXMAX=2
== quorum reads, tombstones, folding, T_msg (qfold.pml): I3 for reads, no flicker; read_one: 1 attempt
q ok  read_one_c0      qfold  -DONLY1
f OK  read_one_nosym   qfold  -DONLY1 -DCRASHES=1 -DTTOMB=1
f ok  read_c0          qfold
q ok  read_one_c1      qfold  -DONLY1 -DCRASHES=1
f ok  read_one_c2      qfold  -DONLY1 -DCRASHES=2 -DTTOMB=2
f ok  read_one_clean   qfold  -DONLY1 -DCRASHES=1 -DCLEAN
f ok  read_one_raise   qfold  -DONLY1 -DCLEAN -DRAISE
f ok  read_one_heal    qfold  -DONLY1 -DCRASHES=1 -DHEAL -DTTOMB=2
f ok  read_one_q       qfold  -DONLY1 -DCRASHES=1 -DQUERY -DCLEAN
f ok  read_one_retake  qfold  -DONLY1 -DCRASHES=1 -DCLEAN -DRETAKE -DTTOMB=2
f ok  read_one_T3      qfold  -DONLY1 -DTATT=2 -DTMSG=2 -DTTOMB=3
f ok  read_one_T8      qfold  -DONLY1 -DTATT=2 -DTMSG=2 -DTTOMB=8
f ok  read_keep_c0     qfold  -DNOFOLD -DBUG_NOTMSG
f ok  read_keep_one_c2 qfold  -DNOFOLD -DBUG_NOTMSG -DONLY1 -DCRASHES=2
f ok  read_keep_heal   qfold  -DNOFOLD -DBUG_NOTMSG -DONLY1 -DHEAL
== update (compare-and-set) and quorum read while held (qcas.pml), I3
q ok  cas_c0           qcas   -DSTICKIES=2
f OK  cas_c0_nosym     qcas   -DSTICKIES=2
f ok  cas_c1           qcas   -DCRASHES=1
f ok  cas_c2           qcas   -DCRASHES=2
q ok  cas_retry        qcas   -DRETRY
f ok  cas_retry_c1     qcas   -DRETRY -DCRASHES=1
f ok  cas_read         qcas   -DREADER
f ok  cas_read_c1      qcas   -DREADER -DCRASHES=1
f ok  cas_mismatch_c1  qcas   -DMISMATCH -DCRASHES=1
f ok  cas_byvalue      qcas   -DBYVALUE
f ok  cas_sticky_c1    qcas   -DSTICKY5 -DRETRY -DCRASHES=1
== updates inside a lease that ends (qend.pml): H I3 I4
q ok  end_c0           qend
f OK  end_c0_nosym     qend
f ok  end_T2           qend   -DTATT=2
f ok  end_L3_T2        qend   -DL=3 -DTATT=2
f ok  end_rb3          qend   -DRB=3
f ok  end_x2r2         qend   -DXMAX=2 -DRMAX=2
f ok  end_ttl          qend   -DTTL
f ok  end_sticky       qend   -DSTICKY
f ok  end_u2           qend   -DU2
f ok  end_u2_rb7       qend   -DU2 -DRB=7
f ok  end_read         qend   -DREADER
f ok  end_heal         qend   -DHEAL
f ok  end_heal_read    qend   -DHEAL -DREADER
f ok  end_c1           qend   -DCRASHES=1
f ok  end_c1_T2        qend   -DCRASHES=1 -DTATT=2
f ok  end_c1_read      qend   -DCRASHES=1 -DREADER
f ok  end_heal_c1      qend   -DHEAL -DCRASHES=1
== mutations of lock and restart: every rule is needed
q bad m_noresync       qlease -DCRASHES=1 -DBUG_NORESYNC
q bad m_nowait_I4      qlease -DCRASHES=1 -DTWAIT=0
f bad m_nowait_I1      qlease -DCRASHES=1 -DTWAIT=0 -DNO_I4
f bad m_noquarantine   qlease -DCRASHES=1 -DDQ=0
f bad m_quar_short     qlease -DCRASHES=1 -DL=3 -DDQ=2
q bad m_overwrite      qlease -DBUG_OVERWRITE
f bad m_releasekey     qlease -DP=3 -DNEXT=0 -DBUG_RELKEY
q bad m_dupvote        qlease -DBUG_DUPVOTE
f bad m_lateclock      qlease -DTATT=2 -DBUG_LATECLOCK
f bad m_noattempt      qlease -DCRASHES=1 -DBUG_NOATT
q bad m_noseal         qlease -DBUG_NOSEAL
q bad m_extinstall     qlease -DBUG_EXTINST
f bad m_expearly       qlease -DBUG_EXPEARLY
f bad m_union          qlease -DCRASHES=1 -DBUG_UNION
f bad m_notoken_I2     qlease -DBUG_NOTOKEN -DNO_I4
f bad m_nofloor_I2     qlease -DCRASHES=1 -DBUG_NOFLOOR -DNO_I4
f bad m_floorfirst_I2  qlease -DCRASHES=1 -DBUG_FLOORFIRST -DNO_I4
f bad m_nocover        qfold  -DCRASHES=2 -DONLY1 -DNOFOLD -DBUG_NOTMSG -DBUG_NOCOVER
== mutations of key RESYNC
q bad m_h_nowait       qlease -DHEAL -DTHEAL=0
f bad m_h_nowait_read  qfold  -DHEAL -DTHEAL=0 -DONLY1
q bad m_h_one          qlease -DHEAL -DBUG_HONE
q bad m_h_keep         qlease -DHEAL -DBUG_HKEEP
f bad m_h_answer       qlease -DHEAL -DBUG_HANSWER
== mutations of the deletion rule
q bad m_q_one          qlease -DQUERY -DBUG_QONE
f bad m_q_noseal       qlease -DQUERY -DBUG_QNOSEAL
f bad m_q_floor        qlease -DQUERY -DBUG_QFLOOR
f bad m_q_ext_one      qlease -DP=1 -DCRASHES=2 -DQUERY -DQSTRICT -DTPROM=2 -DL=4 -DBUG_QEXT
f bad m_q_shadow       qlease -DCRASHES=1 -DQUERY -DBUG_QSHADOW
f bad m_q_resync       qlease -DCRASHES=1 -DQUERY -DBUG_QRESYNC
f bad m_q_ext          qlease -DCRASHES=1 -DQUERY -DBUG_QEXT
== mutations of adoption, ABORT, retries and RELEASE
q bad m_a_abortall     qadopt -DBUG_ABORTALL
q bad m_a_prevall      qadopt -DBUG_PREVALL
q bad m_a_noconfirm    qadopt -DBUG_XNOCONF
f bad m_a_accept       qadopt -DACCEPT -DBUG_ACCEPTCONF
q bad m_a_earlyunknown qadopt -DBUG_EARLYUNK
q bad m_a_resend       qadopt -DBUG_RESEND
f bad m_a_handofflate  qadopt -DPREVREL -DBUG_PREVLATE
f bad m_a_unconfirmed  qadopt -DCRASHES=1 -DBUG_UNCONF
f bad m_a_qone         qadopt -DQUERY -DBUG_QONE
== mutations of reads, tombstones and T_msg
q bad m_f_notmsg       qfold  -DONLY1 -DBUG_NOTMSG
q bad m_f_notomb       qfold  -DONLY1 -DTTOMB=0
f bad m_f_tombshort    qfold  -DONLY1 -DTATT=2 -DTMSG=2 -DTTOMB=2
q bad m_f_readany      qfold  -DONLY1 -DBUG_READANY
f bad m_f_ghostone     qfold  -DBUG_GHOSTONE
q bad m_f_cleannone    qfold  -DONLY1 -DCLEAN -DBUG_CLEANNONE
f bad m_f_mergenone_T3 qfold  -DONLY1 -DCRASHES=1 -DTMSG=3 -DBUG_MERGENONE
== mutations of update
f bad m_cas_nowait     qcas   -DCRASHES=1 -DTWAIT=0
f bad m_cas_noatt      qcas   -DCRASHES=1 -DBUG_NOATT
f bad m_cas_forgetpb   qcas   -DCRASHES=1 -DBUG_FORGETPB
q bad m_cas_sticky     qcas   -DBUG_STICKY
q bad m_cas_first      qcas   -DBUG_FIRSTREPLY
q bad m_cas_noprep     qcas   -DBUG_NOPREP
f bad m_cas_samevalue  qcas   -DRETRY -DBUG_SAMEVALUE
f bad m_cas_reapply    qcas   -DRETRY -DBUG_REAPPLY
f bad m_cas_ownany     qcas   -DRETRY -DBUG_OWNANY
q bad m_cas_readone    qcas   -DREADER -DBUG_READONE
f bad m_cas_copy       qcas   -DREADER -DCRASHES=1 -DBUG_COPY
f bad m_cas_copymis    qcas   -DMISMATCH -DCRASHES=1 -DBUG_COPY
f bad m_cas_anyversion qcas   -DBYVALUE -DBUG_ANYVERSION -DSYM
== mutations of updates inside a lease that ends
q bad m_e_short        qend   -DBUG_SHORT
f bad m_e_outlast      qend   -DBUG_OUTLAST
f bad m_e_late         qend   -DTATT=2 -DBUG_LATE
f bad m_e_late_read    qend   -DREADER -DBUG_LATE
q bad m_e_stalerel     qend   -DBUG_STALEREL
f bad m_e_resend       qend   -DBUG_RESEND
f bad m_e_extany       qend   -DBUG_EXTANY
f bad m_e_shadowack    qend   -DCRASHES=1 -DBUG_SHADOWACK
f bad m_e_copy         qend   -DCRASHES=1 -DTATT=2 -DBUG_COPY
f bad m_e_nowait       qend   -DCRASHES=1 -DTWAIT=0
== rules that are not needed for safety on their own, in these scopes
f ok  n_q_noseal       qlease -DQUERY -DCRASHES=1 -DTPROM=2 -DL=3 -DBUG_QNOSEAL
f ok  n_heal_floor     qlease -DHEAL -DCRASHES=1 -DBUG_HFLOOR
f ok  n_mergenone      qfold  -DONLY1 -DCRASHES=1 -DBUG_MERGENONE
f ok  n_nocover        qfold  -DONLY1 -DCRASHES=2 -DTTOMB=1 -DBUG_NOCOVER
f ok  n_unconfirmed_h  qadopt -DHEAL -DBUG_UNCONF
f ok  n_e_shortest     qend   -DTATT=2 -DBUG_SHORTEST
f ok  n_e_countall     qend   -DTATT=2 -DBUG_COUNTALL
== large: 3 attempts
l ok  L_lease_p3_c1    qlease -DP=3 -DCRASHES=1
== large: 2 attempts, 2 restarts, all three masters ask
l ok  L_q_c2           qlease -DQUERY -DCRASHES=2
l ok  L_q_raise_c2     qlease -DQUERY -DCRASHES=2 -DRAISE
== large: key RESYNC with restarts
l ok  L_heal_c2        qlease -DHEAL -DCRASHES=2
l ok  L_heal_q_raise   qlease -DHEAL -DQUERY -DRAISE -DCRASHES=1
l ok  L_heal_q_c2      qlease -DHEAL -DQUERY -DCRASHES=2
== large: adoption with restarts
l ok  L_adopt_q_c1     qadopt -DQUERY -DCRASHES=1
l ok  L_adopt_heal_c1  qadopt -DHEAL -DCRASHES=1
l ok  L_adopt_heal_q   qadopt -DHEAL -DQUERY
l ok  L_adopt_c2       qadopt -DCRASHES=2
== large: reads of 2 attempts
l ok  L_read_heal      qfold  -DHEAL -DTTOMB=1
l ok  L_read_c1_x0     qfold  -DCRASHES=1 -DTTOMB=1 -DNEXT=0
l ok  L_read_c1        qfold  -DCRASHES=1 -DTTOMB=1
l ok  L_read_one_all   qfold  -DONLY1 -DCRASHES=1 -DHEAL -DCLEAN -DQUERY -DTTOMB=2
== large: updates
l ok  L_cas_read_c2    qcas   -DREADER -DCRASHES=2
l ok  L_cas_byvalue_c1 qcas   -DBYVALUE -DCRASHES=1 +HC4
END
}

want() { # set label
	case $mode in
	quick) [ "$1" = q ] ;;
	full) [ "$1" != l ] ;;
	large) [ "$1" = l ] ;;
	*) [[ " $only " == *" $2 "* ]] ;;
	esac
}

mode=full only=
case ${1-} in
--quick) mode=quick ;;
--large) mode=large ;;
-h | --help) sed -n '2,8s/^# //p' "$0"; exit 0 ;;
-*) sed -n '2,8s/^# //p' "$0" >&2; exit 2 ;;
?*) mode=only only="$*" ;;
esac
for tool in spin gcc; do
	command -v $tool >/dev/null && continue
	echo "run_all.sh: $tool is missing, so nothing was checked: tools/install_deps model installs it" >&2
	exit 3
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
case $mode in
full) results=results.txt TRACES=$work ;;
large) results=results_large.txt CPU=3600 HASH=27 ;;
*) results=/dev/null ;;
esac
say() { printf '%s\n' "$1" | tee -a "$work/results"; }

wrong=0 lines=0
section=
while read -r set expected label model flags; do
	if [ "$set" = == ]; then
		section="== $expected $label $model $flags"
		continue
	fi
	want "$set" "$label" || continue
	[ -z "$section" ] || say "$section"
	section=
	[ "$expected" != ok ] || flags="-DSYM $flags"
	pan=
	[[ $flags != *+HC4 ]] || pan=-DHC4 flags=${flags% +HC4}
	# shellcheck disable=SC2086
	line=$(TRACES=${TRACES-} CPU=${CPU-} HASH=${HASH-} PAN=$pan ./run.sh "$model" "$label" $flags) || exit 3
	lines=$((lines + 1))
	case "$expected $line" in
	bad*VIOLATION*) ;;
	[oO][kK]*exhaustive*) ;;
	*) wrong=$((wrong + 1)) line="$line   <-- expected: $([ "$expected" = bad ] && echo a violation || echo none)" ;;
	esac
	say "$line"
done < <(table)

if [ $mode != large ] && want q membership; then
	say "== membership change (quorum arithmetic only): safe where there is the gate, and only there"
	python3 membership.py >"$work/membership" || exit 3
	while read -r line; do
		case "$line" in
		*gate=True*:\ SAFE* | *gate=False*:\ UNSAFE*) ;;
		*) wrong=$((wrong + 1)) line="$line   <-- not expected" ;;
		esac
		lines=$((lines + 1))
		say "$line"
	done <"$work/membership"
fi
[ $lines -gt 0 ] || { echo "run_all.sh: no such scope: $only" >&2; exit 2; }
say "$lines lines, $wrong not as expected ($(spin -V))"
if [ $mode = full ]; then
	mkdir -p traces
	cp "$work"/trace_*.txt traces
fi
[ "$results" = /dev/null ] || cp "$work/results" "$results"
[ $wrong = 0 ]
