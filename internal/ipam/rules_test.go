package ipam

import (
	"slices"
	"testing"
)

// rule is a story for a rule that users of MetalLB rely on, by its number in the
// list of rules, or for one where Mooring differs on purpose ("own").
type rule struct{ number, name, story string }

// TestRules tells all of them.
func TestRules(t *testing.T) {
	for _, r := range slices.Concat(givingRules, changingRules) {
		t.Run(r.number+" "+r.name, func(t *testing.T) { newWorld(t).tell(r.story) })
	}
}

// givingRules are about what a Service gets.
var givingRules = []rule{
	{"1", "an address belongs to one Service; the ports do not matter", `
pools a=192.0.2.1-192.0.2.2
svc x tcp/80 -> 192.0.2.1 of a
svc y tcp/443 -> 192.0.2.2 of a
svc z tcp/22 -> PoolExhausted`},
	{"2", "sharing wants one key and no port of one protocol twice", `
pools a=192.0.2.1-192.0.2.4
svc x key=k tcp/53 -> 192.0.2.1 of a
svc y key=k udp/53 -> 192.0.2.1 of a
svc z key=k tcp/53 -> 192.0.2.2 of a
svc other key=m tcp/80 -> 192.0.2.3 of a
svc none tcp/81 -> 192.0.2.4 of a`},
	{"2", "one key and one port, asked for by address, is refused", `
pools a=192.0.2.1-192.0.2.4
svc x key=k tcp/53 ask=192.0.2.2 -> 192.0.2.2 of a
svc y key=k tcp/53 ask=192.0.2.2 -> AddressInUse
svc z tcp/54 ask=192.0.2.2 -> AddressInUse
svc u key=k tcp/54 ask=192.0.2.2 -> 192.0.2.2 of a`},
	{"2", "a port that a Service has twice counts once", `
pools a=192.0.2.1-192.0.2.4
svc x key=k tcp/80 tcp/80 -> 192.0.2.1 of a
svc y key=k tcp/81 ask=192.0.2.2 -> 192.0.2.2 of a
svc z key=k tcp/80 -> 192.0.2.2 of a`},
	{"3", "Local shares with Local of one selector, never with Cluster", `
pools a=192.0.2.1-192.0.2.4
svc x key=k tcp/80 local=app:web -> 192.0.2.1 of a
svc y key=k tcp/81 local=app:web -> 192.0.2.1 of a
svc z key=k tcp/82 local=app:mail -> 192.0.2.2 of a
svc u key=k tcp/83 -> 192.0.2.3 of a
svc v key=k tcp/84 cluster=app:web -> 192.0.2.3 of a
svc w key=k tcp/85 ask=192.0.2.1 -> AddressInUse`},
	{"3", "Local without a selector is not Cluster", `
pools a=192.0.2.1-192.0.2.4
svc x key=k tcp/80 local= -> 192.0.2.1 of a
svc y key=k tcp/81 -> 192.0.2.2 of a`},
	{"4", "a sole user changes key, ports and policy in place", `
pools a=192.0.2.1-192.0.2.4
svc x key=k tcp/80 -> 192.0.2.1 of a
svc x key=m tcp/81 -> 192.0.2.1 of a
svc x tcp/82 local=app:web -> 192.0.2.1 of a
svc y key=k tcp/80 -> 192.0.2.2 of a
svc z key=m tcp/80 -> 192.0.2.3 of a`},
	{"4", "with others on it, who changes the key is moved", `
pools a=192.0.2.1-192.0.2.2
svc x key=k tcp/80 -> 192.0.2.1 of a
svc y key=k tcp/81 -> 192.0.2.1 of a
svc x key=m tcp/80 -> 192.0.2.2 of a?
again x -> 192.0.2.2 of a
has y -> 192.0.2.1 of a`},
	{"4", "moved by a port that collides, by Local, and without a place to go", `
pools a=192.0.2.1-192.0.2.2
svc x key=k tcp/80 -> 192.0.2.1 of a
svc y key=k tcp/81 -> 192.0.2.1 of a
svc y key=k tcp/80 -> 192.0.2.2 of a?
svc y key=k tcp/81 -> 192.0.2.2 of a
svc z key=k tcp/82 -> 192.0.2.1 of a
svc z key=k tcp/82 local=app:z -> PoolExhausted?
waiting -> z
svc z key=k tcp/80 -> 192.0.2.2 of a`},
	{"4", "a port that is freed on a shared address is worth a retry", `
pools a=192.0.2.1
svc x key=k tcp/80 -> 192.0.2.1 of a
svc y key=k tcp/80 -> PoolExhausted
svc x key=k tcp/81 -> 192.0.2.1 of a
retry -> y 192.0.2.1 of a`},
	{"5", "a shared key without an address joins wherever it can (own: always, not perhaps)", `
pools a=192.0.2.1-192.0.2.9 b=198.51.100.1-198.51.100.9
svc x key=k tcp/80 pool=b -> 198.51.100.1 of b
svc y key=k tcp/81 -> 198.51.100.1 of b
svc z key=k tcp/80 -> 192.0.2.1 of a
svc u key=k tcp/82 pool=a -> 192.0.2.1 of a
svc v key=k tcp/82 -> 198.51.100.1 of b`},
	{"6", "assigning again changes nothing, whatever the status says meanwhile", `
pools a=192.0.2.1-192.0.2.4
svc x -> 192.0.2.1 of a
again x -> 192.0.2.1 of a
svc x has=192.0.2.3 -> 192.0.2.1 of a
svc y -> 192.0.2.2 of a`},
	{"6", "asking for the address that it has is always well", `
pools a=192.0.2.1
svc x -> 192.0.2.1 of a
svc x ask=192.0.2.1 -> 192.0.2.1 of a
svc x ask=192.0.2.1 pool=a -> 192.0.2.1 of a`},
	{"7", "an address asked for is in a pool that is for the Service; manual pools count", `
pools a=192.0.2.0/29;manual b=198.51.100.0/29;ns=other c=203.0.113.0/24;avoid
svc x ask=192.0.2.5 -> 192.0.2.5 of a
svc y ask=198.51.100.1 -> PoolForbidden
svc z ask=10.0.0.1 -> AddressNotInPool
svc u ask=203.0.113.0 -> AddressAvoided
svc v ask=203.0.113.255 -> AddressAvoided
svc w ask=203.0.113.7 -> 203.0.113.7 of c`},
	{"7", "not free: it waits and takes no other", `
pools a=192.0.2.1-192.0.2.4
svc x ask=192.0.2.2 -> 192.0.2.2 of a
svc y ask=192.0.2.2 -> AddressInUse
waiting -> y
drop x -> true
retry -> y 192.0.2.2 of a
waiting ->`},
	{"7", "the families asked for are the Service's, of one pool", `
pools a=192.0.2.0/29,2001:db8::/125 b=198.51.100.0/29,2001:db8:1::/125
svc x v4v6 prefer ask=192.0.2.1 -> FamilyMismatch
svc x v4v6 require ask=192.0.2.1 -> FamilyMismatch
svc x v4 ask=2001:db8::1 -> FamilyMismatch
svc x v4 ask=192.0.2.1,2001:db8::1 -> FamilyMismatch
svc x v4 ask=192.0.2.1,192.0.2.2 -> FamilyMismatch
svc x v4v6 prefer ask=192.0.2.1,192.0.2.2 -> FamilyMismatch
svc x v4v6 require ask=192.0.2.1,2001:db8:1::1 -> AddressNotInPool
waiting -> x
svc x v6v4 require ask=192.0.2.1,2001:db8::1 -> 2001:db8::1 192.0.2.1 of a
svc y v4v6 prefer ask=2001:db8:1::1,198.51.100.1 -> 198.51.100.1 2001:db8:1::1 of b`},
	{"7", "all of what is asked for, or none", `
pools a=192.0.2.0/29,2001:db8::/125
svc x v6 ask=2001:db8::1 -> 2001:db8::1 of a
svc y v4v6 require ask=192.0.2.1,2001:db8::1 -> AddressInUse
svc z ask=192.0.2.1 -> 192.0.2.1 of a`},
	{"8", "address and pool that disagree", `
pools a=192.0.2.0/29 b=198.51.100.0/29
svc x ask=192.0.2.1 pool=b -> PoolDisagrees
svc x ask=192.0.2.1 pool=nosuch -> PoolDisagrees
svc x ask=192.0.2.1 pool=a -> 192.0.2.1 of a`},
	{"9", "the pool asked for only, manual or not, if it is for the Service", `
pools a=192.0.2.1 b=198.51.100.1;manual c=203.0.113.1;label=tier:web
svc x pool=b -> 198.51.100.1 of b
svc y pool=b -> PoolExhausted
svc z pool=c -> PoolForbidden
svc z pool=c label=tier:web -> 203.0.113.1 of c
svc u pool=nosuch -> UnknownPool
svc v pool=a v6 -> NoFamilyInPool`},
	{"9", "another pool asked for on a live Service moves it (own: if it can)", `
pools a=192.0.2.1 b=198.51.100.1
svc x -> 192.0.2.1 of a
svc x pool=b -> 198.51.100.1 of b
svc y -> 192.0.2.1 of a
svc y pool=b -> PoolExhausted, keeps 192.0.2.1 of a
svc y pool=nosuch -> UnknownPool, keeps 192.0.2.1 of a
drop x
retry -> y UnknownPool, keeps 192.0.2.1 of a
svc y -> 192.0.2.1 of a`},
	{"own", "another address asked for on a live Service: the old one stays until the new one is free", `
pools a=192.0.2.1-192.0.2.4
svc x -> 192.0.2.1 of a
svc y -> 192.0.2.2 of a
svc x ask=192.0.2.2 -> AddressInUse, keeps 192.0.2.1 of a
svc x ask=10.9.9.9 -> AddressNotInPool, keeps 192.0.2.1 of a
svc x ask=192.0.2.4 -> 192.0.2.4 of a
svc x ask=192.0.2.2 -> AddressInUse, keeps 192.0.2.4 of a
drop y
retry -> x 192.0.2.2 of a
stats -> a 4=1+3!0`},
	{"10", "it keeps what it had only as long as it may", `
pools a=192.0.2.1-192.0.2.2
svc x key=k tcp/80 -> 192.0.2.1 of a
svc y key=k tcp/81 -> 192.0.2.1 of a
svc z tcp/81 -> 192.0.2.2 of a
svc y tcp/81 ask=192.0.2.2 -> AddressInUse?`},
	{"11", "pools for it come first, by priority, 0 last; then the others by name", `
pools e=10.0.0.5 d=10.0.0.4 c=10.0.0.3;label=l:1 b=10.0.0.2;ns=d;prio=20 a=10.0.0.1;ns=d;prio=30 f=10.0.0.6;ns=other;prio=1
svc 1 label=l:1 -> 10.0.0.2 of b
svc 2 label=l:1 -> 10.0.0.1 of a
fits 2 -> b a c d e
svc 3 label=l:1 -> 10.0.0.3 of c
svc 4 label=l:1 -> 10.0.0.4 of d
svc 5 label=l:1 -> 10.0.0.5 of e
svc 6 label=l:1 -> PoolExhausted`},
	{"11", "a pool with a priority and no selector is for everybody, and comes first", `
pools a=10.0.0.1 b=10.0.0.2;prio=50 c=10.0.0.3;ns=d
svc 1 -> 10.0.0.2 of b
svc 2 -> 10.0.0.3 of c
svc 3 -> 10.0.0.1 of a`},
	{"11", "namespaces by name or label, and Services by label: both where both are given", `
pools a=10.0.0.1;ns=other;nslabel=team:a;label=l:1;label=l:2
svc 1 label=l:1 -> NoPoolFits
svc 1 nslabel=team:a -> NoPoolFits
svc 1 label=l:3 nslabel=team:a -> NoPoolFits
svc 1 label=l:2 nslabel=team:a -> 10.0.0.1 of a`},
	{"11", "not by itself from a manual pool", `
pools a=10.0.0.1;manual
svc 1 -> NoPoolFits
svc 1 pool=a -> 10.0.0.1 of a`},
	{"own", "a namespace whose labels are not known yet is in nobody's pool, and loses nothing", `
pools a=10.0.0.1 b=10.0.0.2;nsnot=public
svc 1 nsunknown -> NamespaceUnknown
svc 1 -> 10.0.0.2 of b
svc 1 nsunknown -> 10.0.0.2 of b
svc 2 nsunknown pool=a -> 10.0.0.1 of a
svc 3 nsunknown pool=b -> NamespaceUnknown
svc 1 nsunknown ask=10.0.0.2 -> 10.0.0.2 of b
replay ->`},
	{"own", "nor does it get more of such a pool", `
pools a=10.0.0.1,2001:db8::1;nslabel=team:a
svc 1 nsunknown v4v6 prefer has=10.0.0.1 -> 10.0.0.1 of a?
svc 1 nslabel=team:a v4v6 prefer -> 10.0.0.1 2001:db8::1 of a`},
	{"12", "in the order of the ranges; one inside another counts once", `
pools a=10.0.0.9,10.0.0.1-10.0.0.2,10.0.0.1,10.0.0.0/29
svc 1 -> 10.0.0.9 of a
svc 2 -> 10.0.0.1 of a
svc 3 -> 10.0.0.2 of a
svc 4 -> 10.0.0.0 of a
svc 5 -> 10.0.0.3 of a
stats -> a 9=5+4!0
overlaps ->`},
	{"own", "what was released comes after what was never used, and then by age", `
pools a=10.0.0.1-10.0.0.4
svc 1 -> 10.0.0.1 of a
svc 2 -> 10.0.0.2 of a
drop 2 -> true
drop 1 -> true
svc 3 -> 10.0.0.3 of a
svc 4 -> 10.0.0.4 of a
svc 5 -> 10.0.0.2 of a
svc 6 -> 10.0.0.1 of a
drop 7 -> false`},
	{"own", "it stays so when the pools change", `
pools a=10.0.0.1-10.0.0.3
svc 1 -> 10.0.0.1 of a
svc 2 -> 10.0.0.2 of a
drop 2
drop 1
pools a=10.0.0.1-10.0.0.4
svc 3 -> 10.0.0.3 of a
svc 4 -> 10.0.0.4 of a
svc 5 -> 10.0.0.2 of a`},
	{"13", "one stack: the family of the first cluster IP", `
pools a=10.0.0.0/29,2001:db8::/125
svc 1 v4 -> 10.0.0.0 of a
svc 2 v6 -> 2001:db8:: of a
svc 3 v6v4 -> 2001:db8::1 of a
svc 4 v4 prefer -> 10.0.0.1 of a`},
	{"13", "RequireDualStack: both of one pool, and cluster IPs of both", `
pools a=10.0.0.1 b=2001:db8::1 c=10.0.1.1-10.0.1.2,2001:db8::2
svc 1 v4 require -> NotDualStack
svc 1 v4v6 require -> 10.0.1.1 2001:db8::2 of c
svc 2 v4v6 require -> PoolExhausted
drop 1
retry -> 2 10.0.1.2 2001:db8::2 of c`},
	{"13", "RequireDualStack where no pool has both", `
pools a=10.0.0.1 b=2001:db8::1
svc 1 v4v6 require -> NoFamilyInPool
pools a=10.0.0.1,2001:db8::1
retry -> 1 10.0.0.1 2001:db8::1 of a`},
	{"13", "PreferDualStack: a pool with both, else the first family, else the second", `
pools a=10.0.0.1-10.0.0.2 b=2001:db8::1 c=10.0.1.1,2001:db8::2
svc 1 v6v4 prefer -> 2001:db8::2 10.0.1.1 of c
svc 2 v6v4 prefer -> 2001:db8::1 of b?
svc 3 v6v4 prefer -> 10.0.0.1 of a?
svc 4 v4v6 prefer -> 10.0.0.2 of a?
svc 5 v4v6 prefer -> PoolExhausted`},
	{"13", "PreferDualStack adds the other family later, of its own pool only", `
pools a=10.0.0.1 b=10.0.1.1,2001:db8::1
svc x v6 pool=b -> 2001:db8::1 of b
svc 1 v4v6 prefer -> 10.0.0.1 of a?
drop x
waiting -> 1
retry -> 1 10.0.0.1 of a?
pools a=10.0.0.1,2001:db8:1::1 b=10.0.1.1,2001:db8::1 ->
retry -> 1 10.0.0.1 2001:db8:1::1 of a
waiting ->`},
	{"13", "a policy that changes on a live Service", `
pools a=10.0.0.0/30,2001:db8::/126
svc 1 v4 -> 10.0.0.0 of a
svc 1 v4v6 prefer -> 10.0.0.0 2001:db8:: of a
svc 1 v4v6 require -> 10.0.0.0 2001:db8:: of a
svc 1 v6v4 require -> 2001:db8:: 10.0.0.0 of a
svc 1 v4 -> 10.0.0.0 of a
stats -> a 8=1+7!0`},
	{"13", "RequireDualStack on a live Service leaves its pool if it must, and waits in it if it cannot", `
pools a=10.0.0.1 b=10.0.1.1,2001:db8::1
svc 1 v4 -> 10.0.0.1 of a
svc 2 v6 -> 2001:db8::1 of b
svc 1 v4v6 require -> PoolExhausted, keeps 10.0.0.1 of a
drop 2
retry -> 1 10.0.1.1 2001:db8::1 of b`},
	{"13", "dual stack and a shared key", `
pools a=10.0.0.0/30,2001:db8::/126
svc 1 v4 key=k tcp/80 -> 10.0.0.0 of a
svc 2 v4v6 prefer key=k tcp/81 -> 10.0.0.0 2001:db8:: of a
svc 3 v6v4 require key=k tcp/80 -> 2001:db8:: 10.0.0.1 of a
svc 4 v4v6 require key=k tcp/82 -> 10.0.0.0 2001:db8:: of a`},
}
