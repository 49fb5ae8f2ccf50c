package stages

import (
	"crypto/sha256"

	"github.com/google/uuid"
	"github.com/ossify/ossify/module"
)

// derivedUUID returns a UUID that goes with the stage's id and the purpose.
func derivedUUID(args *module.Args, purpose string) uuid.UUID {
	return uuid.NewHash(sha256.New(), uuid.NameSpaceOID, []byte(args.Meta.ID+" "+purpose), 4)
}
