"""Protocol ids offered over libp2p. A breaking change is a new number; both are offered for one release."""

LINK = "/mesh/link/1"
CALL = "/mesh/call/1"
SVC = "/mesh/svc/1"
