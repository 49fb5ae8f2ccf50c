package disk

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
)

const swapPage = 4096

// writeSwap writes the header of a swap area (union swap_header of the kernel's
// include/linux/swap.h, with pages of 4 KiB) into the raw image.
func writeSwap(raw *os.File, p *Partition) error {
	pages := p.sizeBytes() / swapPage
	if pages < 10 || pages > math.MaxUint32 {
		return fmt.Errorf("swap of %d bytes is not possible: want 10 to %d pages of %d bytes", p.sizeBytes(), uint32(math.MaxUint32), swapPage)
	}
	id, err := parseUUID(p.Filesystem.UUID)
	if err != nil {
		return err
	}
	page := make([]byte, swapPage)
	le := binary.LittleEndian
	le.PutUint32(page[1024:], 1) // version
	le.PutUint32(page[1028:], uint32(pages-1))
	copy(page[1036:], id[:])
	copy(page[1052:1068], p.Filesystem.Label)
	copy(page[swapPage-10:], "SWAPSPACE2")
	_, err = raw.WriteAt(page, p.startBytes())
	return err
}
