#!/bin/sh
# Re-checks every claim made in src/core/protocol.md.  Needs spin + gcc; ~12 min CPU, < 8 GB.
# Each line: label, verdict, states, flags.  Shortest counterexamples go to traces/.
mkdir -p traces; export OUT=$(pwd)/traces
R=./run.sh
echo "== the seed's rules (seed.pml): safe only when nothing ever goes wrong"
$R seed.pml seed_nofault
$R seed.pml seed_ext_nofault -DEXT
$R seed.pml seed_slow_coord  -DSLOW
$R seed.pml seed_delay       -DDELAY
$R seed.pml seed_loss        -DLOSS
$R seed.pml seed_1restart    -DCRASH=1
$R seed.pml seed_expearly    -DEXPEARLY
echo "== proposed protocol (qlease.pml): lock/extend/release/abort, I1 I2 I4 I5"
$R qlease.pml lease_c0       -DP=2 -DCRASHES=0
$R qlease.pml lease_p3_c0    -DP=3 -DCRASHES=0
$R qlease.pml lease_c1       -DP=2 -DCRASHES=1
$R qlease.pml lease_c1_drift -DP=2 -DCRASHES=1 -DDA=3 -DDQ=3
$R qlease.pml lease_c1_L3    -DP=2 -DCRASHES=1 -DL=3
$R qlease.pml lease_c0_TATT2 -DP=2 -DCRASHES=0 -DTATT=2
$R qlease.pml lease_c2       -DP=2 -DCRASHES=2
echo "== quorum reads (I3 for reads, no flicker)"
$R qlease.pml read_c0        -DP=2 -DCRASHES=0 -DREADER
$R qlease.pml read_one_c1    -DP=2 -DONLY1 -DCRASHES=1 -DREADER
$R qlease.pml read_one_c2    -DP=2 -DONLY1 -DCRASHES=2 -DREADER
echo "== update / compare-and-set while held (qcas.pml), I3"
$R qcas.pml cas_c0           -DCRASHES=0 -DSTICKIES=2
$R qcas.pml cas_c1           -DCRASHES=1
echo "== mutations: every rule is needed (each line must say VIOLATION)"
$R qlease.pml m_noresync     -DCRASHES=1 -DBUG_NORESYNC
$R qlease.pml m_nowait_I4    -DCRASHES=1 -DTWAIT=0
$R qlease.pml m_nowait_I1    -DCRASHES=1 -DTWAIT=0 -DNO_I4
$R qlease.pml m_noquarantine -DCRASHES=1 -DDQ=0
$R qlease.pml m_quar_short   -DCRASHES=1 -DL=3 -DDQ=2
$R qlease.pml m_overwrite    -DCRASHES=1 -DBUG_OVERWRITE
$R qlease.pml m_releasekey   -DP=3 -DCRASHES=0 -DNEXT=0 -DBUG_RELKEY
$R qlease.pml m_dupvote      -DCRASHES=0 -DBUG_DUPVOTE
$R qlease.pml m_lateclock    -DCRASHES=0 -DTATT=2 -DBUG_LATECLOCK
$R qlease.pml m_noattempt    -DCRASHES=1 -DBUG_NOATT
$R qlease.pml m_noseal       -DCRASHES=0 -DBUG_NOSEAL
$R qlease.pml m_extinstall   -DCRASHES=0 -DBUG_EXTINST
$R qlease.pml m_expearly     -DCRASHES=0 -DBUG_EXPEARLY
$R qlease.pml m_union        -DCRASHES=1 -DBUG_UNION
$R qlease.pml m_notoken_I2   -DCRASHES=0 -DBUG_NOTOKEN -DNO_I4
$R qlease.pml m_nofloor_I2   -DCRASHES=1 -DBUG_NOFLOOR -DNO_I4
$R qlease.pml m_nocover      -DONLY1 -DCRASHES=2 -DREADER -DBUG_NOCOVER
$R qlease.pml m_readany      -DCRASHES=0 -DREADER -DREADANY
$R qcas.pml   m_cas_nowait   -DCRASHES=1 -DTWAIT=0
$R qcas.pml   m_cas_noatt    -DCRASHES=1 -DBUG_NOATT
$R qcas.pml   m_cas_forgetpb -DCRASHES=1 -DBUG_FORGETPB
$R qcas.pml   m_cas_sticky   -DCRASHES=0 -DBUG_STICKY
$R qcas.pml   m_cas_first    -DCRASHES=0 -DBUG_FIRSTREPLY
$R qcas.pml   m_cas_noprep   -DCRASHES=0 -DBUG_NOPREP
echo "== promises, CONFIRM and the deletion rule (qlease.pml -DQUERY, protocol.md 2.11): I1 I2 I4, QSTRICT = nobody holds a deleted uid"
$R qlease.pml q_c0           -DP=2 -DCRASHES=0 -DQUERY -DQSTRICT -DL=3
$R qlease.pml q_c0_T0        -DP=2 -DCRASHES=0 -DQUERY -DQSTRICT -DTPROM=0
export CPU=280 CCX=-DCOLLAPSE
$R qlease.pml q_c1           -DP=2 -DCRASHES=1 -DQUERY -DL=3
$R qlease.pml q_c1_T0        -DP=2 -DCRASHES=1 -DQUERY -DTPROM=0
MEM=7800 $R qlease.pml q_c2_T0_qm1 -DP=2 -DCRASHES=2 -DQUERY -DTPROM=0 -DQM=1
unset CPU CCX
$R qlease.pml q_one_c3       -DONLY1 -DCRASHES=3 -DQUERY -DQSTRICT -DL=4
$R qlease.pml q_one_c3_T0    -DONLY1 -DCRASHES=3 -DQUERY -DQSTRICT -DTPROM=0 -DL=3
$R qlease.pml q_read_one_c2  -DONLY1 -DCRASHES=2 -DREADER -DQUERY -DQSTRICT -DTPROM=0
echo "== mutations of the deletion rule (each line must say VIOLATION)"
$R qlease.pml m_q_one        -DCRASHES=0 -DQUERY -DL=3 -DBUG_QONE
$R qlease.pml m_q_noseal_T0  -DCRASHES=0 -DQUERY -DTPROM=0 -DBUG_QNOSEAL
$R qlease.pml m_q_floor      -DCRASHES=0 -DQUERY -DTPROM=0 -DBUG_QFLOOR
$R qlease.pml m_q_floor_L3   -DCRASHES=0 -DQUERY -DL=3 -DBUG_QFLOOR
$R qlease.pml m_q_ext_one    -DONLY1 -DCRASHES=2 -DQUERY -DQSTRICT -DL=4 -DBUG_QEXT
export CPU=280 CCX=-DCOLLAPSE
$R qlease.pml m_q_shadow     -DCRASHES=1 -DQUERY -DL=3 -DBUG_QSHADOW
$R qlease.pml m_q_resync     -DCRASHES=1 -DQUERY -DL=3 -DBUG_QRESYNC
$R qlease.pml m_q_ext        -DCRASHES=1 -DQUERY -DTPROM=0 -DBUG_QEXT
echo "== rules of 2.11 that are NOT needed for safety on their own (no violation; -DTPROM=0 above is one more)"
$R qlease.pml q_no_noseal    -DCRASHES=1 -DQUERY -DL=3 -DBUG_QNOSEAL
$R qlease.pml q_no_confirm   -DCRASHES=1 -DQUERY -DTPROM=0 -DBUG_QCONF
unset CPU CCX
echo "== membership change (quorum arithmetic only)"
python3 membership.py
