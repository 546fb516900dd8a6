/*
 * The part of Foundation that the shim uses, by Apple's public names. For Linux, where device.m implements it, and for
 * macOS, where a library is linked without Apple's headers.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef long NSInteger;
typedef unsigned long NSUInteger;
#ifdef __APPLE__
typedef bool BOOL;
#define YES ((BOOL)1)
#define NO ((BOOL)0)
#define nil ((id)0)
#else
#include <objc/objc.h>
#include <objc/runtime.h>
#endif

@class NSString, NSError;

@protocol NSObject
- (id)retain;
- (oneway void)release;
- (id)autorelease;
- (NSUInteger)retainCount;
- (BOOL)respondsToSelector:(SEL)selector;
@end

__attribute__((objc_root_class)) @interface NSObject<NSObject> {
#ifndef __APPLE__
 @public
  Class isa; /* nothing else: constant strings are laid out as {isa, characters, length} */
#endif
}
+ (id)alloc;
+ (id)new;
- (id)init;
- (void)dealloc;
@end

@interface NSString : NSObject
+ (id)stringWithUTF8String:(const char*)text;
- (const char*)UTF8String;
@end

@interface NSError : NSObject
- (NSString*)localizedDescription;
- (NSInteger)code;
@end

#ifdef __APPLE__
@interface NSArray : NSObject
- (NSUInteger)count;
- (id)objectAtIndex:(NSUInteger)index;
@end
#endif

#ifndef __APPLE__
@interface NSConstantString : NSString {
 @public
  const char* c_string;
  unsigned int len;
}
@end
@interface NSAutoreleasePool : NSObject {
 @public
  id* objects;
  int count, capacity;
  NSAutoreleasePool* outer;
}
+ (void)addObject:(id)object;
- (void)drain;
@end
#endif

#ifdef __cplusplus
extern "C" {
#endif
Class NSClassFromString(NSString* name);
#ifdef __cplusplus
}
#endif
