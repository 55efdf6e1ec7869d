"""What starts a slot: kernel, initramfs and GRUB."""
