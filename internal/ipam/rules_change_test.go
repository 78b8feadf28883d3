package ipam

// changingRules are about what changes around a Service: pools, others, restarts.
var changingRules = []rule{
	{"14", "a pool grows: nothing moves", `
pools a=10.0.0.2-10.0.0.3
svc 1 -> 10.0.0.2 of a
pools a=10.0.0.1-10.0.0.9 ->
svc 2 -> 10.0.0.1 of a
has 1 -> 10.0.0.2 of a`},
	{"14", "a pool shrinks: who loses an address gets another", `
pools a=10.0.0.1-10.0.0.4
svc 2 -> 10.0.0.1 of a
svc 1 -> 10.0.0.2 of a
svc 3 -> 10.0.0.3 of a
pools a=10.0.0.3-10.0.0.4 -> 1 2
has 1 ->
waiting -> 1 2
retry -> 1 10.0.0.4 of a?, 2 PoolExhausted?`},
	{"14", "avoidBuggy comes to a pool whose .0 and .255 are in use", `
pools a=10.0.0.254-10.0.1.1
svc 1 -> 10.0.0.254 of a
svc 2 -> 10.0.0.255 of a
svc 3 -> 10.0.1.0 of a
pools a=10.0.0.254-10.0.1.1;avoid -> 2 3
retry -> 2 10.0.1.1 of a?, 3 PoolExhausted?
stats -> a 2=2+0!0`},
	{"14", "a pool is deleted; the last one is", `
pools a=10.0.0.1 b=10.0.1.1-10.0.1.2
svc 1 -> 10.0.0.1 of a
pools b=10.0.1.1-10.0.1.2 -> 1
retry -> 1 10.0.1.1 of b?
pools -> 1
retry -> 1 NoPools?
retry -> 1 NoPools
stats ->`},
	{"14", "renamed and split: the address stays, the pool's name moves", `
pools a=10.0.0.1-10.0.0.4
svc 1 -> 10.0.0.1 of a
svc 2 ask=10.0.0.4 -> 10.0.0.4 of a
pools c=10.0.0.3-10.0.0.4 b=10.0.0.1-10.0.0.2 ->
has 1 -> 10.0.0.1 of b
has 2 -> 10.0.0.4 of c
stats -> b 2=1+1!0, c 2=1+1!0`},
	{"own", "split between two families: the first one's address stays", `
pools a=10.0.0.1-10.0.0.4,2001:db8::/126
svc 1 v4v6 prefer -> 10.0.0.1 2001:db8:: of a
svc 2 v4v6 require -> 10.0.0.2 2001:db8::1 of a
pools a=10.0.0.1-10.0.0.4 b=2001:db8::/126 -> 1 2
retry -> 1 10.0.0.1 of a??, 2 NoFamilyInPool, keeps 10.0.0.2 of a?
replay ->`},
	{"own", "a pool deleted and made anew gives everybody the old address back", `
pools a=10.0.0.1-10.0.0.3 b=10.0.1.1
svc 3 -> 10.0.0.1 of a
svc 2 -> 10.0.0.2 of a
svc 1 -> 10.0.0.3 of a
svc 0 -> 10.0.1.1 of b
drop 3
pools -> 0 1 2
retry
pools a=10.0.0.1-10.0.0.3 b=10.0.1.1 ->
svc new -> 10.0.0.1 of a
retry -> 0 10.0.1.1 of b, 1 10.0.0.3 of a, 2 10.0.0.2 of a`},
	{"14", "a pool that is not for the Service any more", `
pools a=10.0.0.1 b=10.0.1.1
svc 1 -> 10.0.0.1 of a
svc 2 nsunknown -> 10.0.1.1 of b
pools a=10.0.0.1;ns=other b=10.0.1.1;nslabel=a:b -> 1
retry -> 1 NoPoolFits?
has 2 -> 10.0.1.1 of b`},
	{"15", "type changed or deleted: the address is free for who waits", `
pools a=10.0.0.1
svc 1 -> 10.0.0.1 of a
svc 3 born=7 -> PoolExhausted
svc 2 born=8 -> PoolExhausted
drop 1 -> true
has 1 ->
retry -> 3 10.0.0.1 of a, 2 PoolExhausted`},
	{"15", "of a shared address only the ports are free", `
pools a=10.0.0.1
svc 1 key=k tcp/80 -> 10.0.0.1 of a
svc 2 key=k tcp/81 -> 10.0.0.1 of a
drop 1
svc 3 -> PoolExhausted
svc 4 key=k tcp/80 -> 10.0.0.1 of a
stats -> a 1=1+0!0`},
	{"16", "another class ends it as a deletion does, and it can come back", `
pools a=10.0.0.1-10.0.0.2
svc 1 -> 10.0.0.1 of a
drop 1 -> true
svc 1 -> 10.0.0.2 of a`},
	{"17", "a foreign status is not ours to keep (klipper-lb, a host name)", `
pools a=10.0.0.1-10.0.0.9
svc 1 foreign has=10.0.0.7 -> 10.0.0.1 of a
svc 2 has=10.0.0.5,10.0.0.6,10.0.0.7 -> 10.0.0.2 of a
svc 3 has=172.16.0.1 -> 10.0.0.3 of a?
svc 4 v4 has=2001:db8::1 -> 10.0.0.4 of a`},
	{"18", "no cluster IP, or a fatal issue", `
pools a=10.0.0.1-10.0.0.9
svc 1 none -> NoClusterIPs
svc 2 fatal -> InvalidService
waiting ->
svc 3 -> 10.0.0.1 of a
svc 3 none -> NoClusterIPs
svc 4 has=10.0.0.4 fatal -> InvalidService, keeps 10.0.0.4 of a
svc 4 fatal key=k -> InvalidService, keeps 10.0.0.4 of a`},
	{"19", "nothing before the pools are known, and nothing forgotten", `
svc 1 has=10.0.0.2 -> PoolsNotLoaded
waiting ->
pools a=10.0.0.1-10.0.0.2 ->
again 1 -> 10.0.0.2 of a`},
	{"19", "at the start what the status says counts, as far as it is allowed", `
pools a=10.0.0.1-10.0.0.4,2001:db8::/126;avoid b=10.0.1.1;ns=other
svc 1 has=10.0.0.3 -> 10.0.0.3 of a
svc 2 has=10.0.0.3 -> 10.0.0.1 of a?
svc 3 has=10.0.1.1 -> 10.0.0.2 of a?
svc 4 v4v6 require has=10.0.0.4 -> 10.0.0.4 2001:db8:: of a
svc 5 v6v4 prefer has=::ffff:10.0.0.9,2001:db8::2 -> 2001:db8::2 of a??
svc 6 ask=10.0.0.4 has=10.0.0.1 -> AddressInUse?`},
	{"19", "a manual pool keeps who has its addresses", `
pools a=10.0.0.1;manual b=10.0.1.1
svc 1 has=10.0.0.1 -> 10.0.0.1 of a
replay ->`},
	{"20", "who waits, in the order of age, then name; not who can only mend itself", `
pools a=10.0.0.1
svc 0 -> 10.0.0.1 of a
svc c born=1 -> PoolExhausted
svc b born=2 -> PoolExhausted
svc a born=2 -> PoolExhausted
svc d born=0 none -> NoClusterIPs
svc e born=3 pool=x -> UnknownPool
waiting -> c a b e
drop c
waiting -> a b e`},
	{"21", "counters", `
pools a=10.0.0.0/24;avoid b=10.1.0.0/16;avoid c=2001:db8::/64 d=10.2.0.0/24,2001:db8:1::/66 e=2001:db8:2::/67 f=10.3.0.1-10.3.0.254;avoid
stats -> a 254=0+254!0, b 65024=0+65024!0, c 9223372036854775807=0+9223372036854775807!0, d 9223372036854775807=0+9223372036854775807!0, e 2305843009213693952=0+2305843009213693952!0, f 254=0+254!0
svc 1 pool=a -> 10.0.0.1 of a
svc 2 pool=c v6 -> 2001:db8:: of c
quarantine 10.0.0.2 02:00:00:00:00:01 ->
quarantine 10.0.0.1 02:00:00:00:00:01 -> 1
quarantine 10.0.0.0 02:00:00:00:00:01 ->
pools a=10.0.0.0/24;avoid c=2001:db8::/64
stats -> a 254=1+252!2, c 9223372036854775807=1+9223372036854775807!0`},
	{"21", "ranges of which each has few addresses and all together have more than can be said", `
pools a=2001:db8::/67,2001:db8:1::/67,2001:db8:2::/67,2001:db8:3::/67,2001:db8:4::/67
stats -> a 9223372036854775807=0+9223372036854775807!0`},
	{"own", "quarantine: never given, kept by who has it, last in the row afterwards", `
pools a=10.0.0.1-10.0.0.3
svc 1 -> 10.0.0.1 of a
quarantine 10.0.0.1 02:00:00:00:00:01 -> 1
quarantine ::ffff:10.0.0.2 02:00:00:00:00:02 ->
again 1 -> 10.0.0.1 of a?
svc 2 -> 10.0.0.3 of a
svc 3 -> PoolExhausted
svc 4 ask=10.0.0.2 -> AddressQuarantined
svc 5 ask=10.0.0.1 -> AddressQuarantined
replay ->
drop 1
retry -> 3 PoolExhausted, 4 AddressQuarantined, 5 AddressQuarantined
absolve 10.0.0.1
absolve 10.0.0.9
retry -> 3 10.0.0.1 of a, 4 AddressQuarantined, 5 AddressInUse
absolve 10.0.0.2
retry -> 4 10.0.0.2 of a, 5 AddressInUse`},
	{"own", "quarantine: nobody joins a shared address either, and nobody comes back to it", `
pools a=10.0.0.1-10.0.0.2
svc 1 key=k tcp/80 -> 10.0.0.1 of a
quarantine 10.0.0.1 02:00:00:00:00:01 -> 1
svc 2 key=k tcp/81 -> 10.0.0.2 of a
svc 1 key=k tcp/82 -> 10.0.0.1 of a?
pools -> 1 2
pools a=10.0.0.1-10.0.0.3 ->
retry -> 1 10.0.0.3 of a?, 2 10.0.0.2 of a?`},
	{"own", "quarantine: who has the address may ask for it and one more", `
pools a=10.0.0.1-10.0.0.3,2001:db8::/126
svc 1 -> 10.0.0.1 of a
quarantine 10.0.0.1 02:00:00:00:00:01 -> 1
svc 1 v4v6 require ask=10.0.0.1,2001:db8::1 -> 10.0.0.1 2001:db8::1 of a?
svc 2 v4v6 require ask=10.0.0.1,2001:db8::2 -> AddressQuarantined`},
	{"own", "quarantine before first use: the next address by Release and Assign", `
pools a=10.0.0.1-10.0.0.3
svc 1 -> 10.0.0.1 of a
quarantine 10.0.0.1 02:00:00:00:00:01 -> 1
drop 1
svc 1 -> 10.0.0.2 of a`},
}
